"""Questions to a store."""
import functools

import numpy as np
import pytest
import torch
from small_sweeps import CLASSES, MULTI_HOT, QUANTITIES, images, small_model, sweep
from torch.utils.data import TensorDataset

from crp.store import References, StoreError

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A store of 66 samples, each of 22 images three times, so that there are ties; in shards of 8."""
    data = TensorDataset(images(22).repeat(3, 1, 1, 1), torch.arange(66) % 22 % CLASSES)
    return sweep(tmp_path_factory.mktemp("large"), data=data, batch_size=4, checkpoint=2, max_target="max")


def test_a_store_tells_layers_and_concepts(large):
    assert large.layers == ["conv", "fc"]
    assert large.concepts("conv") == range(5) and large.concepts("fc") == range(4)
    assert large.targets.tolist() == [i % 22 % CLASSES for i in range(66)]
    predictions = small_model()(images(22)).argmax(1).tolist()
    assert large.predictions.tolist() == predictions * 3


NUMBERS = np.array([5, 0, 65, 5, -1, 30])
INDICES = {
    "row": 7, "last row": -1, "numpy row": np.int64(9), "all": slice(None), "slice": slice(3, 40, 7),
    "slice of one shard": slice(8, 16), "reversed": slice(None, None, -1), "empty slice": slice(4, 4),
    "beyond": slice(60, 99), "array": NUMBERS, "list": [9, 8, 8], "empty list": [], "boolean": np.arange(66) % 5 == 1,
    "no row": np.zeros(66, bool), "column": (slice(None), 2), "last column": (slice(None), -1),
    "columns": (slice(None), [4, 0]), "boolean columns": (slice(None), np.arange(5) > 2),
    "column slice": (slice(2, 50, 9), slice(1, 4)), "reversed columns": (slice(0, 20), slice(None, None, -2)),
    "entry": (7, 3), "entry from the end": (-2, -2), "row and columns": (7, [3, 1]), "array and column": (NUMBERS, 1),
    "array and slice": (NUMBERS, slice(0, 3)), "boolean and column": (np.arange(66) > 50, 0),
    "empty and column": ([], 1), "reversed and column": (slice(None, None, -1), 1), "tuple of one": (3,),
    "pairs": (NUMBERS, np.array([0, 1, 2, 3, 4, 0])), "boolean pairs": (np.arange(66) < 2, np.array([1, 3])),
    "outer": (NUMBERS[:, None], np.array([0, 4])), "table": np.array([[1, 2], [64, 4]]), "ellipsis": Ellipsis,
    "ellipsis and column": (Ellipsis, 1), "row and ellipsis": (3, Ellipsis),
}


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("name", INDICES)
def test_values_are_indexed_as_an_array(large, name, normalised):
    values = large.values("conv", normalised=normalised)
    expected = np.asarray(values)[INDICES[name]]
    found = values[INDICES[name]]
    np.testing.assert_array_equal(found, expected)
    assert np.shape(found) == np.shape(expected) and found.dtype == expected.dtype == values.dtype


@pytest.mark.parametrize("index", [66, -67, [3, 66], (0, 5), (slice(None), 5), (slice(None), [-6]), (0, 0, 0), "a"])
def test_values_refuse_an_index_that_an_array_refuses(large, index):
    with pytest.raises((IndexError, TypeError)):
        large.values("conv")[index]


def test_values_behave_as_an_array(large):
    values = large.values("conv", "activation")
    assert values.shape == (66, 5) and len(values) == 66 and values.ndim == 2 and values.dtype == np.float32
    assert np.asarray(values, dtype=np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.stack(list(values)), values[:])
    np.testing.assert_array_equal(np.concatenate(list(values.blocks(3))), values[:])
    values[:][0] = 0
    assert np.all(values[0] != 0)


def restate_top(matrix, samples, k, chosen):
    """Rows in descending order of their values, by a plain sort."""
    return sorted(chosen, key=lambda row: (-float(matrix[row]), int(samples[row])))[:k]


@pytest.mark.parametrize("statistic", ["sum", "max"])
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_top_equals_a_plain_sort_in_which_the_lower_sample_wins_ties(large, quantity, normalised, statistic):
    selection = {"statistic": statistic, "normalised": normalised}
    samples, targets = large.rows(quantity)["sample"], large.targets
    ties = 0
    for layer in large.layers:
        matrix = large.values(layer, quantity, **selection)[:]
        positions = large.positions(layer, quantity)[:]
        for concept in large.concepts(layer):
            for target in (None, 0, 2):
                chosen = [row for row in range(66) if target is None or targets[row] == target]
                for k in (1, 8, 40, 41, 100):
                    rows = restate_top(matrix[:, concept], samples, k, chosen)
                    found = large.top(layer, concept, quantity, k, target, **selection)
                    assert isinstance(found, References)
                    assert found.samples.tolist() == samples[rows].tolist()
                    np.testing.assert_array_equal(found.values, matrix[rows, concept])
                    np.testing.assert_array_equal(found.positions, positions[rows, concept])
                ties += sum(np.diff(found.values) == 0)
    assert ties > 0


def test_top_is_the_share_of_relevance_by_default(large):
    default, raw = large.top("conv", 1, k=60), large.top("conv", 1, k=60, normalised=False)
    np.testing.assert_array_equal(default.values, large.top("conv", 1, k=60, normalised=True).values)
    assert np.abs(default.values).max() <= 1 and not np.allclose(default.values, raw.values)


def test_top_within_a_class_for_activations_of_samples_with_several_targets(tmp_path):
    store = sweep(tmp_path, data=TensorDataset(images(7), MULTI_HOT))
    activations = store.values("fc", "activation", normalised=True)[:, 2]
    expected = sorted((sample for sample in range(7) if MULTI_HOT[sample, 2]), key=lambda i: -activations[i])
    assert store.top("fc", 2, "activation", target=2).samples.tolist() == expected
    assert len(store.top("fc", 2, "relevance", target=2).samples) == 3


def test_the_same_sample_may_come_once_per_target(tmp_path):
    store = sweep(tmp_path, data=TensorDataset(images(7), MULTI_HOT))
    assert sorted(store.top("fc", 2, k=40).samples.tolist()) == [0, 0, 2, 3, 3, 3, 5, 5, 6]
    assert sorted(store.top("fc", 2, "activation", k=40).samples.tolist()) == list(range(7))


def test_class_means_restated(large):
    for quantity in QUANTITIES:
        column = large.values("fc", quantity, normalised=True)[:, 1]
        for n in (1, 3, 1000):
            targets, means = large.class_means("fc", 1, quantity, n)
            expected = [np.mean(sorted(column[large.targets == target])[::-1][:n]) for target in range(CLASSES)]
            assert targets.tolist() == [0, 1, 2]
            np.testing.assert_allclose(means, expected, rtol=1e-5)


def test_a_store_in_memory_as_xarray(large):
    data = large.to_xarray()
    for layer in large.layers:
        for quantity in QUANTITIES:
            array = data[f"{layer}.{quantity}"]
            assert array.dims == (f"{quantity}.row", f"{layer}.concept")
            np.testing.assert_array_equal(array.values, large.values(layer, quantity)[:])
            np.testing.assert_array_equal(data[f"{quantity}.sample"], large.rows(quantity)["sample"])
    np.testing.assert_array_equal(data["relevance.target"], large.targets)
    np.testing.assert_array_equal(data["relevance.prediction"], large.predictions)


@pytest.mark.parametrize("ask, error, match", [
    (lambda store: store.top("conf", 0), StoreError, "did you mean 'conv'"),
    (lambda store: store.values("conv", "relevances"), ValueError, "'relevance' or 'activation'"),
    (lambda store: store.rows("act"), ValueError, "'relevance' or 'activation'"),
    (lambda store: store.top("conv", 5), IndexError, "0 to 4"),
    (lambda store: store.top("conv", 0, k=-1), ValueError, "negative"),
    (lambda store: store.values("conv", statistic="mean"), StoreError, "mean"),
    (lambda store: store.sorted_rows("conv", target=17), StoreError, "17"),
])
def test_questions_that_have_no_answer(large, ask, error, match):
    with pytest.raises(error, match=match):
        ask(large)


def test_the_maximum_of_a_store_of_sums_is_refused(tmp_path):
    store = sweep(tmp_path)
    for ask in (store.values, functools.partial(store.top, concept=0), store.table):
        with pytest.raises(StoreError, match="max_target='max'"):
            ask("conv", statistic="max")
