"""Optimised images: they reach what no sample does, repeatably, and leave the model as it was."""
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from zennit.composites import EpsilonPlusFlat

from crp.analysis import synthesize
from crp.analysis.synthesis import random_transform, to_images
from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.visualization import FeatureVisualization

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4)
    ).eval()


def test_images_drive_concepts_higher_than_samples_do(model, tmp_path, model_state):
    dataset = TensorDataset(torch.rand(40, 3, 16, 16), torch.arange(40) % 4)
    layer_map = {"0": ChannelConcept(), "4": ChannelConcept()}
    store = FeatureVisualization(CondAttribution(model), dataset, layer_map, path=tmp_path).run(
        EpsilonPlusFlat(), 0, 40
    )
    state = model_state(model)
    for layer, concepts in (("0", [0, 3, 5]), ("4", [2])):
        result = synthesize(model, layer, concepts, size=(3, 16, 16), batch_size=2, verbose=False)
        assert result.images.shape == (len(concepts), 3, 16, 16) and result.concepts == concepts
        assert result.images.min() >= 0 and result.images.max() <= 1
        with torch.no_grad():
            values = ChannelConcept().read(model[:int(layer) + 1](result.images)).value
        torch.testing.assert_close(result.activation, values[range(len(concepts)), concepts])
        best = torch.as_tensor(store.values(layer, "activation")[:, concepts].max(0))
        torch.testing.assert_close(result.best_samples(store), best)
        assert (result.activation > best + .5 * best.abs()).all()
        assert len(result.plot().axes) == len(concepts)
    assert model_state(model) == state


def test_each_image_is_of_its_own_concept(model):
    together = synthesize(model, "0", [1, 4], size=(3, 12, 12), steps=20, transform=False, verbose=False)
    with torch.no_grad():
        values = ChannelConcept().read(model[:1](together.images)).value
    assert values[0, 1] > values[1, 1] and values[1, 4] > values[0, 4]


@pytest.mark.parametrize("inplace", [True, False])
def test_concepts_that_are_silent_at_first(inplace):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace)).eval()
    with torch.no_grad():
        model[0].weight[:], model[0].bias[:] = 1, -5.5  # images begin at .5, which gives -1
    result = synthesize(model, "1", [0, 1], size=(1, 9, 9), verbose=False)
    assert (result.activation > 0).all()


def test_seeds_give_the_same_images(model):
    arguments = {"size": (3, 10, 12), "steps": 5, "verbose": False}
    first = synthesize(model, "0", 2, **arguments)
    assert torch.equal(first.images, synthesize(model, "0", 2, **arguments).images)
    assert not torch.equal(first.images, synthesize(model, "0", 2, random_state=1, **arguments).images)


def test_a_whole_layer_and_preprocessing(model):
    before = synthesize(model, "1", size=(3, 12, 12), steps=1, verbose=False)
    after = synthesize(model, "1", size=(3, 12, 12), steps=60, verbose=False)
    assert after.concepts == [None] and after.activation > before.activation
    dark = synthesize(
        model, "0", 1, size=(3, 12, 12), steps=60, preprocess_fn=lambda images: -images, verbose=False
    )
    with torch.no_grad():
        torch.testing.assert_close(dark.activation, model[:1](-dark.images)[:, 1].sum((1, 2)))


def test_seeds_and_buffers_of_the_caller_stay():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).train()
    state, mean = torch.random.get_rng_state(), model[1].running_mean.clone()
    synthesize(model, "2", 0, size=(1, 8, 8), steps=2, random_state=None, verbose=False)
    assert torch.equal(torch.random.get_rng_state(), state) and torch.equal(model[1].running_mean, mean)


def test_long_images_are_not_sheared():
    image = torch.zeros(1, 1, 32, 512)
    image[..., 255:257] = 1
    for seed in range(20):
        moved = random_transform(image, torch.Generator().manual_seed(seed))[0, 0]
        centres = [(row * torch.arange(512)).sum() / row.sum() for row in moved if row.sum() > .5]
        assert abs(centres[-1] - centres[0]) <= 32 * .1


def test_images_of_odd_sizes_and_other_channels():
    for size in ((1, 7, 9), (3, 8, 5), (4, 6, 6)):
        images = to_images(torch.randn(2, size[0], size[1], size[2] // 2 + 1, 2), size)
        assert images.shape == (2, *size) and images.isfinite().all()
        transformed = random_transform(images, torch.Generator().manual_seed(0))
        assert transformed.shape == images.shape and not torch.equal(transformed, images)


@pytest.mark.parametrize("layer, concepts, arguments, error, message", [
    ("9", 0, {}, ValueError, "no layer '9'"), ("0", 6, {}, IndexError, "0 to 5"),
    ("0", 0, {"size": (16, 16)}, ValueError, "channels, height, width"), ("0", 0, {"steps": 0}, ValueError, "positive"),
    ("0", 0.5, {}, TypeError, "integers"), ("0", [], {}, ValueError, "concepts is empty"),
])
def test_bad_arguments(model, layer, concepts, arguments, error, message):
    with pytest.raises(error, match=message):
        synthesize(model, layer, concepts, **{"size": (3, 12, 12), "verbose": False, **arguments})
