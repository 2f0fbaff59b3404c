"""Sweeps that keep a row for each position of a sample, such as a token."""
import shutil

import numpy as np
import pytest
import torch
from padded_text import HEADS, SENTENCES, Reader, item
from small_sweeps import Items, small_model
from store_files import forge
from test_positions_that_count import padded, restated
from torch import nn
from torch.utils.data import TensorDataset
from zennit.composites import EpsilonPlus

from crp.analysis import find_patterns
from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept, HeadConcept
from crp.neurons import rank
from crp.store import ReferenceStore, StoreError, verify
from crp.visualization import FeatureVisualization

pytestmark = pytest.mark.usefixtures("quick")
LAYERS = {"inner": ChannelConcept(-1), "mix": HeadConcept(HEADS)}
LENGTHS = [len(tokens) for tokens in SENTENCES]


def swept(path, items, batch_size=4, layers=LAYERS, model=None, visualization=None, **options):
    attribution = CondAttribution(Reader().eval() if model is None else model)
    fv = FeatureVisualization(attribution, Items(items), layers, path=path, **visualization or {})
    return fv.run(EpsilonPlus(), 0, len(items), batch_size, rows="positions", **options)


def all_restated(layer, quantity):
    """[rows, concepts] of all tokens of all sentences, each sentence alone."""
    return np.concatenate([restated(tokens, layer, quantity).T for tokens in SENTENCES])


@pytest.mark.parametrize("quantity", ["activation", "relevance"])
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_rows_are_those_of_tokens(tmp_path, left, quantity):
    store = swept(tmp_path, [item(tokens, 8, left) for tokens in SENTENCES])
    rows = store.rows(quantity)
    assert rows["sample"].tolist() == np.repeat(np.arange(len(SENTENCES)), LENGTHS).tolist()
    first = [8 - length if left else 0 for length in LENGTHS]
    expected = np.concatenate([start + np.arange(length) for start, length in zip(first, LENGTHS)])
    assert rows["position"].tolist() == expected.tolist() and store.of_positions
    for layer in LAYERS:
        values = all_restated(layer, quantity)
        np.testing.assert_allclose(store.values(layer, quantity)[:], values, atol=1e-6)
        np.testing.assert_allclose(
            store.values(layer, quantity, normalised=True)[:], values / np.abs(values).sum(1, keepdims=True), atol=1e-4
        )
        assert (store.positions(layer, quantity)[:] == expected[:, None]).all()
    assert verify(store.path) == []


def test_collated_batches_and_batch_sizes_change_nothing(tmp_path):
    items = [{"tokens": tokens, "left": i % 2 == 0, "labels": i % 3} for i, tokens in enumerate(SENTENCES)]
    stores = [
        swept(tmp_path / str(size), items, size, visualization={"collate_fn": padded}, checkpoint=2) for size in (1, 4)
    ]
    for store in stores:
        assert store.rows("activation")["position"].tolist() == sum((list(range(length)) for length in LENGTHS), [])
        np.testing.assert_allclose(
            store.values("inner", "activation")[:], all_restated("inner", "activation"), atol=1e-6
        )
    assert stores[0].targets.tolist() == np.repeat(np.arange(len(SENTENCES)) % 3, LENGTHS).tolist()


def test_references_tables_and_classes_are_of_tokens(tmp_path):
    store = swept(tmp_path, [item(tokens, 8, False, i % 3) for i, tokens in enumerate(SENTENCES)])
    values, rows = all_restated("inner", "activation"), store.rows("activation")
    for target in (None, 1):
        chosen = np.arange(len(rows)) if target is None else np.flatnonzero(rows["sample"] % 3 == 1)
        best = chosen[np.argsort(-values[chosen, 2], kind="stable")[:5]]
        found = store.top("inner", 2, "activation", 5, target, normalised=False)
        assert found.samples.tolist() == rows["sample"][best].tolist()
        assert found.positions.tolist() == rows["position"][best].tolist()
        np.testing.assert_allclose(found.values, values[best, 2], atol=1e-6)
    classes, counts, means = store.profile_of_classes("inner", "activation")
    for number, count, mean in zip(classes, counts, means):
        own = rows["sample"] % 3 == number
        assert count == own.sum()
        np.testing.assert_allclose(mean, values[own].mean(0), atol=1e-6)
    targets, best_means = store.class_means("inner", 1, "activation", 2, normalised=False)
    expected = [np.sort(values[rows["sample"] % 3 == number, 1])[::-1][:2].mean() for number in targets]
    np.testing.assert_allclose(best_means, expected, atol=1e-6)
    labels = np.arange(len(rows)) % 2
    np.testing.assert_allclose(
        rank(store, labels, "anova", layers="inner").scores, rank(values, labels, "anova").scores, rtol=1e-3
    )
    assert len(find_patterns(store, "inner", "activation", min_pattern_size=3).samples) == len(rows)


def test_references_are_drawn_of_the_token(tmp_path):
    items = [item(tokens, 8, False, i % 3) for i, tokens in enumerate(SENTENCES)]
    fv = FeatureVisualization(CondAttribution(Reader().eval()), Items(items), LAYERS, path=tmp_path)
    store = fv.run(EpsilonPlus(), rows="positions")
    found = fv.get_max_reference(1, "inner", "activation", (0, 3), EpsilonPlus(), plot_fn=None)[1]
    samples = store.top("inner", 1, "activation", 3).samples
    for data, sample in zip(found[0]["input_ids"], samples):
        assert torch.equal(data, items[sample]["input_ids"])


@pytest.mark.parametrize("options", [{"keep": "top"}, {"dtype": "float16"}, {"checkpoint": 1}])
def test_other_options_go_with_it(tmp_path, options):
    items = [item(tokens, 8, False, i % 3) for i, tokens in enumerate(SENTENCES)]
    expected, store = swept(tmp_path / "a", items), swept(tmp_path / "b", items, **options)
    for quantity in ("activation", "relevance"):
        found, table = (of.table("inner", quantity) for of in (store, expected))
        np.testing.assert_allclose(found["value"], table["value"], atol=2e-3)
        assert "dtype" in options or np.array_equal(found["position"], table["position"])
        np.testing.assert_allclose(
            store.profile_of_classes("inner", quantity)[2], expected.profile_of_classes("inner", quantity)[2], atol=1e-3
        )
    assert verify(store.path) == []


def test_samples_with_several_targets(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)).eval()
    targets = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    fv = FeatureVisualization(
        CondAttribution(model), TensorDataset(torch.rand(3, 2, 5), targets), {"1": ChannelConcept()}, path=tmp_path
    )
    store = fv.run(EpsilonPlus(), rows="positions")
    assert store.rows()[["sample", "target", "position"]].tolist() == [
        (sample, target, position) for sample, target in ((0, 0), (0, 2), (1, 1)) for position in range(5)
    ]
    assert len(store.rows("activation")) == 15
    classes, counts, means = store.profile_of_classes("1", "activation")
    values = store.values("1", "activation")[:]
    assert classes.tolist() == [0, 1, 2] and counts.tolist() == [5, 5, 5]
    np.testing.assert_allclose(means, [values[:5].mean(0), values[5:10].mean(0), values[:5].mean(0)], rtol=1e-5)
    assert verify(store.path) == []


def test_rows_of_samples_are_another_sweep(tmp_path):
    items = [item(tokens, 8, False) for tokens in SENTENCES]
    swept(tmp_path, items)
    fv = FeatureVisualization(CondAttribution(Reader().eval()), Items(items), LAYERS, path=tmp_path)
    with pytest.raises(StoreError, match="options.rows is 'positions' there and 'samples' here"):
        fv.run(EpsilonPlus(), 0, len(items), 4)


def test_layers_with_other_positions_are_refused(tmp_path):
    items = [item(tokens, 8, False) for tokens in SENTENCES]
    with pytest.raises(ValueError, match="needs the same positions in all layers.*'pooled': 1"):
        swept(tmp_path, items, layers={**LAYERS, "pooled": ChannelConcept()})
    fv = FeatureVisualization(CondAttribution(small_model()), Items(items), {"conv": ChannelConcept()}, path=tmp_path)
    with pytest.raises(ValueError, match="rows is 'samples' or 'positions', not 'tokens'"):
        fv.run(EpsilonPlus(), rows="tokens")


@pytest.mark.parametrize("field, change", [("position", -1), ("position", 2 ** 40), ("sample", 0)])
def test_rows_that_cannot_be_are_refused(tmp_path, field, change):
    """Also where all hashes have been made to fit."""
    items = [item(tokens, 8, False) for tokens in SENTENCES]
    store = swept(tmp_path / "store", items)
    shard = next((store.path / "shards").iterdir())
    rows = np.load(shard / "activation.rows.npy")
    rows[field][-1] = change
    np.save(shard / "activation.rows.npy", rows)
    forge(store.path)
    with pytest.raises(StoreError, match="damaged"):
        ReferenceStore(store.path).rows("activation")
    shutil.rmtree(store.path)
