"""Accelerated rules on whole models."""
import pytest
import torch
from rule_cases import COMPOSITES, assert_equals_zennit, deviation, output_and_relevance
from small_architectures import small_architecture
from torch import nn
from zennit.canonizers import NamedMergeBatchNorm, SequentialMergeBatchNorm
from zennit.composites import EpsilonPlusFlat
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

from crp.rules.acceleration import accelerate

pytestmark = pytest.mark.usefixtures("quick")


def made(name):
    """A model of torchvision with batch statistics like those of its data."""
    torch.manual_seed(0)
    model = small_architecture(name, num_classes=10)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    data = torch.randn(8, 3, 64 if name == "densenet121" else 40, 64 if name == "densenet121" else 40)
    with torch.no_grad():
        model.train()(data)
        for norm in norms:
            norm.running_mean += .1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(.5, 2)
            norm.weight.uniform_(.5, 1.5)
            norm.bias.normal_(0, .1)
    return model.eval(), data[:2]


def canonizers_for(name, model):
    names = [name for name, _ in model.named_modules() if name.endswith("norm2")]
    return {
        "vgg16_bn": lambda: [VGGCanonizer()],
        "resnet18": lambda: [ResNetCanonizer()],
        "densenet121": lambda: [NamedMergeBatchNorm([
            (["features.conv0"], "features.norm0"), *(([name.replace("norm2", "conv1")], name) for name in names),
        ])],
        "mobilenet_v3_small": lambda: [SequentialMergeBatchNorm()],
    }[name]()


@pytest.mark.parametrize("name", [
    "vgg16_bn", "resnet18",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("densenet121", "mobilenet_v3_small")),
])
def test_heatmaps_of_whole_models(name):
    model, data = made(name)
    single = None
    for kind, make in COMPOSITES.items():
        composite = make(canonizers=canonizers_for(name, model))
        if kind == "plus flat":
            single = [output_and_relevance(each, model, data)[1] for each in (composite, accelerate(composite))]
        model.double()
        output, expected = output_and_relevance(composite, model, data.double())
        own_output, relevance = output_and_relevance(accelerate(composite), model, data.double())
        assert torch.equal(output, own_output)
        assert deviation(relevance, expected) < 1e-12 and deviation(relevance.sum(1), expected.sum(1)) < 1e-12
        if kind == "plus flat":
            of_zennit, own = (deviation(relevance, expected) for relevance in single)
            assert own <= max(1e-5, 3 * of_zennit)


def test_residual_networks_that_add_in_place():
    model, data = made("resnet18")
    assert_equals_zennit(EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()]), model.double(), data.double())
