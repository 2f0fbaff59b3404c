"""Samples that differ from the others, or with which the model fails, are named and left out; no others are."""
from collections import OrderedDict

import numpy as np
import pytest
import torch
from small_sweeps import LAYERS, Items, images, small_model, visualization
from torch import nn
from zennit.composites import EpsilonPlusFlat

from crp.concepts import ChannelConcept
from crp.model.samples import SampleError
from crp.store import verify

pytestmark = pytest.mark.usefixtures("quick")

ODD = {
    "another shape": lambda image: (torch.rand(1, 7, 7).double(), 1),
    "another type": lambda image: (image.float(), 1),
    "a class that the model lacks": lambda image: (image, 3),
    "a class that the model lacks beside others": lambda image: (image, torch.tensor([1, 1, 0, 1])),
}


def run(path, items, batch_size=4, model=None, layers=LAYERS, **options):
    view = visualization(path, Items(items), model, layers)
    return view.run(EpsilonPlusFlat(), 0, len(items), batch_size, 2, **options)


def classified(count=9):
    return [(image, i % 3) for i, image in enumerate(images(count))]


def check_left_out(path, store, items, left_out, **options):
    """The store holds what it holds of the others alone."""
    others = [i for i in range(len(items)) if i not in left_out]
    assert list(store.skipped) == left_out and verify(store.path) == []
    assert store.rows("activation")["sample"].tolist() == store.rows("relevance")["sample"].tolist() == others
    expected = run(path, [items[i] for i in others], **options)
    for layer in expected.layers:
        np.testing.assert_allclose(store.values(layer)[:], expected.values(layer)[:], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("batch_size, at", [(4, [5]), (4, [0]), (4, [4, 8]), (1, [0, 3]), (2, [2]), (2, [4, 5])])
def test_odd_samples_are_named_and_left_out(tmp_path, odd, batch_size, at):
    items = classified()
    for i in at:
        items[i] = ODD[odd](items[i][0])
    with pytest.raises(SampleError, match=f"^sample {at[0]}: "):
        run(tmp_path / "raise", items, batch_size)
    store = run(tmp_path / "skip", items, batch_size, on_error="skip")
    check_left_out(tmp_path / "others", store, items, at)


def test_inputs_of_another_structure_are_odd(tmp_path):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(1, 4, 3), nn.Linear(64, 3)

        def forward(self, image, more=0):
            return self.out(self.conv(image + more).relu().flatten(1))

    items = [({"image": image}, target) for image, target in classified()]
    items[5] = {"image": items[5][0]["image"], "more": torch.ones(1, 6, 6).double()}, 0
    options = {"model": Sum().double().eval(), "layers": {"conv": ChannelConcept()}}
    with pytest.raises(SampleError, match="sample 5: ValueError: samples 4 and 5 hold different tensors"):
        run(tmp_path / "raise", items, **options)
    store = run(tmp_path / "skip", items, on_error="skip", **options)
    check_left_out(tmp_path / "others", store, items, [5], **options)


def test_models_that_take_any_shape_are_given_samples_of_one_shape_at_a_time(tmp_path):
    model = nn.Sequential(OrderedDict([
        ("conv", nn.Conv2d(1, 5, 3)), ("relu", nn.ReLU()), ("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()),
        ("fc", nn.Linear(5, 3)),
    ])).double().eval()
    items = [(torch.rand(1, size, 6).double(), 0) for size in (4, 6, 5, 6)]
    store = run(tmp_path / "one", items, 1, model)
    assert store.skipped == {} and store.rows("activation")["sample"].tolist() == [0, 1, 2, 3]
    for i, (image, _) in enumerate(items):
        np.testing.assert_allclose(store.values("conv", "activation")[i], model.conv(image).sum((1, 2)).detach())
        places = model.conv(image).flatten(1).argmax(1)
        assert store.positions("conv", "activation")[i].tolist() == places.tolist()
        assert store.sorted_rows("conv", "activation")[2].max() > 7  # the first sample has no such position
    pairs = run(tmp_path / "pairs", [items[i] for i in (0, 0, 1, 3)], 2, model)
    assert pairs.skipped == {} and len(pairs.rows("activation")) == 4
    with pytest.warns(UserWarning, match="samples have different shapes"):
        four = run(tmp_path / "four", items, 4, model)
    for quantity in ("activation", "relevance"):
        np.testing.assert_allclose(four.values("conv", quantity)[:], store.values("conv", quantity)[:], rtol=1e-6)


class Refusing(nn.Module):
    """Fails as told by a function of the batch."""

    def __init__(self, refuses):
        super().__init__()
        self.refuses = refuses

    def forward(self, x):
        if self.refuses(x):
            raise LookupError("no such thing")
        return x


def refusing(refuses):
    return nn.Sequential(OrderedDict([("first", Refusing(refuses)), *small_model().named_children()]))


@pytest.mark.parametrize("at", [[6], [0, 1], [4, 5, 6, 7]])
def test_samples_with_which_the_model_fails_are_named_and_left_out(tmp_path, at):
    items = classified()
    for i in at:
        items[i] = -items[i][0], items[i][1]
    model = refusing(lambda x: bool((x < 0).any()))
    with pytest.raises(SampleError, match=f"sample {at[0]}: LookupError: no such thing") as caught:
        run(tmp_path / "raise", items, model=model)
    assert isinstance(caught.value.__cause__, LookupError)
    store = run(tmp_path / "skip", items, model=model, on_error="skip")
    assert store.skipped[at[0]] == "LookupError: no such thing"
    check_left_out(tmp_path / "others", store, items, at, model=model)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_errors_that_come_with_every_sample_end_the_sweep_as_they_are(tmp_path, on_error):
    seen = []

    def is_lost(x):
        seen.append(len(x))
        return sum(seen) > 12

    for name, refuses in (
        ("from the start", lambda x: True), ("from some time on", is_lost), ("in batches", lambda x: len(x) > 2),
    ):
        with pytest.raises(LookupError, match="^no such thing$"):
            run(tmp_path / name, classified(), model=refusing(refuses), on_error=on_error)


def test_a_sample_of_which_rows_are_written_is_not_left_out(tmp_path):
    class Overflowing(nn.Linear):
        def forward(self, x):
            return super().forward(x) * torch.tensor([1, 1e308, 1], dtype=x.dtype)

    model = small_model()
    model.out = Overflowing(4, 3).double()
    items = [(image, torch.tensor([1, int(i == 3), 0])) for i, image in enumerate(images(9))]
    with pytest.raises(SampleError, match="sample 3: FloatingPointError"):
        run(tmp_path, items, 1, model, on_error="skip")
