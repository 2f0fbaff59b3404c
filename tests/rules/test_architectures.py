"""Relevance adds up in the models that people have, without canonizers."""
import copy

import pytest
import torch
from architectures import (
    CONVOLUTIONAL,
    HUGGING_FACE,
    TRANSFORMERS_OF_IMAGES,
    audit,
    hugging_face_model,
    torchvision_model,
)
from torch import nn
from zennit.composites import EpsilonPlus

from crp.attribution import CondAttribution
from crp.composites import LanguageModel, VisionTransformer

QUICK = ("resnet18", "BERT", "GPT-2", "Llama")


def names(*groups):
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for group in groups for name in group]


def assert_accounted(found):
    assert found.accounted == pytest.approx(1, abs=1e-3) and not found.faults
    assert not any("no rule" in note for note in found.notes)


@pytest.mark.parametrize("name", names(CONVOLUTIONAL, TRANSFORMERS_OF_IMAGES))
def test_the_books_of_torchvisions_models_close(name):
    model, images, composite = torchvision_model(name)
    found = audit(model, images, composite)
    assert_accounted(found)
    result = CondAttribution(model)(images, [{}], composite, init_rel=lambda y: (y == y.amax(1, keepdim=True)).double())
    assert result.heatmap.sum().item() / 2 == pytest.approx(found.total, rel=1e-6)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", names(HUGGING_FACE))
def test_the_books_of_hugging_faces_models_close(name, attention):
    assert_accounted(audit(*hugging_face_model(name, attention)))


@pytest.mark.parametrize("name", names(HUGGING_FACE))
def test_both_ways_to_compute_attention_give_the_same_relevance(name):
    heatmaps = []
    for attention in ("eager", "sdpa"):
        model, data, composite = hugging_face_model(name, attention)
        target = {"y": [0]} if name in ("BERT", "ViT") else {"y": [(-1, 3)]}
        heatmaps.append(CondAttribution(model, output="logits")(data, [target], composite).heatmap)
    for eager, sdpa in zip(*(heatmap.values() for heatmap in heatmaps)):
        if eager is not None:
            assert (eager - sdpa).abs().max() < 1e-3 * eager.abs().max()


@pytest.mark.parametrize("name", names([name for name in CONVOLUTIONAL if "net_" not in name]))
def test_without_biases_everything_arrives_at_the_input(name):
    assert audit(*torchvision_model(name, with_biases=False)).total == pytest.approx(1, abs=2e-3)


def test_parameters_that_enter_as_data_are_named():
    model, data, composite = hugging_face_model("ViT", "sdpa")
    nn.init.normal_(model.vit.embeddings.cls_token)
    found = audit(model, data, composite).parameters
    assert set(found) == {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"}
    assert all(abs(amount) > 1e-3 for amount in found.values())
    model, data, composite = hugging_face_model("GPT-2", "sdpa")
    assert set(audit(model, data, composite).parameters) == {"transformer.wpe.weight"}


@pytest.mark.parametrize("kind", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("composite", [LanguageModel(), VisionTransformer(), EpsilonPlus()],
                         ids=lambda composite: type(composite).__name__)
@pytest.mark.parametrize("name", ["GPT-2", "ViT"])
def test_half_precision_gives_about_the_same(name, composite, kind):
    model, data, _ = hugging_face_model(name, "sdpa")
    target = {"y": [0]} if name == "ViT" else {"y": [(-1, 3)]}

    def heatmap(model, data):
        return next(iter(CondAttribution(model, output="logits")(data, [target], composite).heatmap.values())).double()

    exact = heatmap(model, data)
    low = copy.deepcopy(model).to(kind)
    found = heatmap(low, {key: x.to(kind) if x.is_floating_point() else x for key, x in data.items()})
    assert torch.corrcoef(torch.stack([exact.flatten(), found.flatten()]))[0, 1] > .95
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = heatmap(copy.deepcopy(model).float(), {
            key: x.float() if x.is_floating_point() else x for key, x in data.items()
        })
    assert torch.corrcoef(torch.stack([exact.flatten(), found.flatten()]))[0, 1] > .95


@pytest.mark.parametrize("make, message", [
    (lambda model: torch.compile(model), "the model is compiled.*_orig_mod"),
    (lambda model: nn.Sequential(torch.compile(model)), "module '0' is compiled"),
    (lambda model: torch.ao.quantization.quantize_dynamic(model, {nn.Linear}), "module '0' is quantised"),
    (lambda model: torch.jit.trace(model, torch.rand(1, 4)), "the model is a script"),
])
@pytest.mark.filterwarnings("ignore")
def test_what_hides_its_operations_is_refused(make, message):
    with pytest.raises(TypeError, match=message):
        CondAttribution(make(nn.Sequential(nn.Linear(4, 3), nn.ReLU())))


def test_a_model_compiled_in_place_is_refused():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    model[0].compile()
    with pytest.raises(TypeError, match="module '0' is compiled"):
        CondAttribution(model)
