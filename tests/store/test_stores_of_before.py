"""Stores that version 0.1.0 wrote before its files moved are read, and its sweeps are gone on with.

``stores_of_before.zip`` holds what ``finished(path)`` and ``begun(path)`` wrote then.
"""
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from zennit.composites import EpsilonPlusFlat

from crp.analysis import Patterns
from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept, DirectionConcept
from crp.store import ReferenceStore, verify
from crp.visualization import FeatureVisualization

ARCHIVE = Path(__file__).with_name("stores_of_before.zip")


def numbers(*shape, step, modulus):
    """Exact numbers of both signs, the same on every machine."""
    count = torch.Size(shape).numel()
    return ((torch.arange(count) * step % modulus - modulus // 2) / 8).view(shape)


def visualization(path):
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)).eval()
    for step, parameter in enumerate(model.parameters(), 3):
        parameter.data = numbers(*parameter.shape, step=step, modulus=11)
    dataset = [(numbers(1, 4, 4, step=2 * i + 1, modulus=13 + i % 3), i % 2) for i in range(12)]
    layers = {"0": ChannelConcept(), "1": DirectionConcept(torch.tensor([[1., 0, 0], [0, 1, 1]]))}
    return FeatureVisualization(CondAttribution(model), dataset, layers, path=path, max_target="max")


def finished(path):
    fv = visualization(path)
    fv.run(EpsilonPlusFlat(), 0, 12, batch_size=2, checkpoint=3)
    fv.find_patterns("0", min_pattern_size=2, min_samples=1)


def begun(path):
    visualization(path).run_distributed(EpsilonPlusFlat(), 0, 6, batch_size=2, checkpoint=3)


@pytest.fixture
def before(tmp_path):
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def matrices(store):
    return [
        np.asarray(store.values(layer, quantity, statistic=statistic))
        for layer in store.layers for quantity in ("relevance", "activation") for statistic in ("sum", "max")
    ]


def assert_same(old, new):
    assert old.layers == new.layers and old.ranges == new.ranges == [[0, 12]] and old.options == new.options
    for there, here in zip(matrices(old), matrices(new), strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-5, atol=1e-6)


def test_finished_stores_are_read(before, tmp_path):
    assert verify(before / "finished") == []
    finished(tmp_path / "new")
    old, new = ReferenceStore(before / "finished"), ReferenceStore(tmp_path / "new")
    assert_same(old, new)
    np.testing.assert_array_equal(Patterns.load(old, layer="0").labels, Patterns.load(new, layer="0").labels)
    references = visualization(before / "finished").get_max_reference(
        [0, 1], "1", "relevance", (0, 3), EpsilonPlusFlat(), plot_fn=None
    )
    assert set(references) == {0, 1}


def test_a_sweep_that_was_begun_goes_on(before, tmp_path):
    kept = {file: file.read_bytes() for file in (before / "begun").rglob("*") if file.is_file()}
    assert any(file.name == "shard.json" for file in kept)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*in another environment")  # other versions than then
        store = visualization(before / "begun").run(EpsilonPlusFlat(), 0, 12, batch_size=2, checkpoint=3)
    assert all(file.read_bytes() == content for file, content in kept.items())
    finished(tmp_path / "new")
    assert_same(store, ReferenceStore(tmp_path / "new"))
    assert verify(before / "begun") == []
