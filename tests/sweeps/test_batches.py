"""What the matrices hold."""
import functools
import tempfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sweeps import (
    CLASSES,
    MULTI_HOT,
    SAMPLES,
    Items,
    check_store,
    dataset,
    images,
    restate_rows,
    restated,
    single_targets,
    small_model,
    sweep,
    visualization,
)
from torch import nn
from torch.utils.data import TensorDataset
from zennit.composites import EpsilonPlusFlat
from zennit.core import Composite

from crp.concepts import ChannelConcept, Concept
from crp.store import StoreError
from crp.visualization import FeatureVisualization

pytestmark = pytest.mark.usefixtures("quick")


def restrict(expected, count):
    return {key: entries[:count] for key, entries in expected.items()}


# What the matrices hold

@settings(deadline=None, max_examples=15)
@given(count=st.integers(1, SAMPLES), batch_size=st.integers(1, 6), checkpoint=st.integers(1, 3),
       max_target=st.sampled_from(["sum", "max"]))
def test_the_matrices_equal_attributing_each_sample_alone(count, batch_size, checkpoint, max_target):
    with tempfile.TemporaryDirectory() as folder:
        store = sweep(folder, data=dataset(count), batch_size=batch_size, checkpoint=checkpoint, max_target=max_target)
        check_store(store, restrict(restated(), count))
        if max_target == "max":
            check_store(store, restrict(restated("max"), count), "max")


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 6, 12])
def test_known_bug_a_last_batch_of_one_sample_is_swept(tmp_path, batch_size):
    assert SAMPLES % batch_size == 1 or batch_size == 1
    check_store(sweep(tmp_path, batch_size=batch_size), restated())


def test_a_store_holds_raw_sums_of_absolute_values(tmp_path):
    store = sweep(tmp_path)
    for key in (store.entry(layer).key for layer in store.layers):
        for shard in sorted((tmp_path / "shards").iterdir()):
            value = np.load(shard / f"{key}.relevance.value.npy")
            total = np.load(shard / f"{key}.relevance.total.npy")
            np.testing.assert_allclose(total, np.abs(value).sum(1), rtol=1e-5)


def test_a_part_of_a_dataset_keeps_the_numbers_of_its_samples(tmp_path):
    store = visualization(tmp_path).run(EpsilonPlusFlat(), 3, 8, batch_size=2, checkpoint=1)
    assert store.rows()["sample"].tolist() == store.rows("activation")["sample"].tolist() == [3, 4, 5, 6, 7]
    expected = [entry[3] for entry in restated()["conv", "relevance"][3:8]]
    np.testing.assert_allclose(store.values("conv")[:], expected, rtol=1e-5, atol=1e-7)
    assert set(store.top("conv", 0, k=40).samples) == {3, 4, 5, 6, 7}


@functools.cache
def restated_multi_hot():
    return restate_rows(small_model(), images(7), [torch.nonzero(bits)[:, 0].tolist() for bits in MULTI_HOT])


@settings(deadline=None, max_examples=12)
@given(batch_size=st.integers(1, 8), checkpoint=st.integers(1, 3), dtype=st.sampled_from(["int", "bool", "float"]))
def test_multi_hot_targets_give_a_row_of_relevance_per_set_bit_and_one_of_activation(batch_size, checkpoint, dtype):
    multi_hot = MULTI_HOT.to(getattr(torch, dtype))
    expected = restated_multi_hot()
    with tempfile.TemporaryDirectory() as folder:
        store = sweep(folder, data=TensorDataset(images(7), multi_hot), batch_size=batch_size, checkpoint=checkpoint)
        check_store(store, expected)
        assert store.targets.tolist() == [0, 2, 1, 0, 1, 2, 1, 2, 0]
        assert len(store.predictions) == 9
        assert store.rows("activation")["sample"].tolist() == list(range(7))


def test_an_overridden_multitarget_to_single_decides_the_targets(tmp_path):
    class Strongest(FeatureVisualization):
        def multitarget_to_single(self, multi_target):
            return [int(torch.argmax(multi_target))]

    confidences = torch.tensor([[0.1, 0.7, 0.2], [0.9, 0.05, 0.05], [0.2, 0.3, 0.5]])
    store = sweep(tmp_path, data=TensorDataset(images(3), confidences), kind=Strongest)
    assert store.targets.tolist() == [1, 0, 2]
    check_store(store, restate_rows(small_model(), images(3), [[1], [0], [2]]))


def test_an_overridden_get_data_sample_is_what_the_model_sees(tmp_path):
    class Doubled(FeatureVisualization):
        def get_data_sample(self, index, preprocessing=True):
            data, target = super().get_data_sample(index, preprocessing)
            return data * 2, target

    expected = restate_rows(small_model(), images(5) * 2, [[int(t)] for t in single_targets(5)])
    check_store(sweep(tmp_path / "one", data=dataset(5), kind=Doubled, batch_size=2), expected)
    check_store(sweep(tmp_path / "workers", data=dataset(5), kind=Doubled, batch_size=2, num_workers=1), expected)


@pytest.mark.parametrize("how", ["argument", "override"])
def test_preprocessing_is_applied_to_each_sample_with_its_batch_axis(tmp_path, how):
    shapes = set()

    def preprocess(data):
        shapes.add(tuple(data.shape))
        return data - 0.5

    class Preprocessed(FeatureVisualization):
        def preprocess_data(self, data):
            return preprocess(data)

    arguments = {"preprocess_fn": preprocess} if how == "argument" else {"kind": Preprocessed}
    store = sweep(tmp_path, data=dataset(5), batch_size=2, **arguments)
    check_store(store, restate_rows(small_model(), images(5) - 0.5, [[int(t)] for t in single_targets(5)]))
    assert shapes == {(1, 1, 6, 6)}


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.out = nn.Conv2d(1, 5, 3), nn.Linear(7, 4), nn.Linear(84, CLASSES)

    def forward(self, image, extra):
        return self.out(torch.cat([self.conv(image).relu().flatten(1), self.fc(extra).tanh()], 1))


@pytest.mark.parametrize("form", ["tuple", "dict", "dict of another key"])
def test_models_with_several_inputs(tmp_path, form):
    extra = torch.rand(5, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    key = "labels" if form == "dict" else "species"
    if form == "tuple":
        data = Items(((image, row), int(target)) for image, row, target in zip(images(5), extra, single_targets(5)))
    else:
        data = Items({"extra": row, key: int(target), "image": image}
                     for image, row, target in zip(images(5), extra, single_targets(5)))
    model = TwoInputs().double().eval()
    store = sweep(tmp_path, model=model, data=data, batch_size=2,
                  **({"target_key": key} if form == "dict of another key" else {}))
    check_store(store, restate_rows(model, list(zip(images(5), extra)), [[int(t)] for t in single_targets(5)]))


def test_worker_processes_change_nothing(tmp_path):
    store = sweep(tmp_path / "workers", num_workers=2, batch_size=3)
    check_store(store, restated())


@pytest.mark.parametrize("target", [2, np.int64(2), torch.tensor(2), torch.tensor([2]), np.array([2])])
def test_a_class_number_may_come_in_any_form(tmp_path, target):
    store = sweep(tmp_path, data=Items([(images(1)[0], target)]))
    assert store.targets.tolist() == [2]


@pytest.mark.parametrize("max_target", ["sum", "max"])
def test_channels_on_the_last_axis(tmp_path, max_target):
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict([
        ("token", nn.Linear(4, 6)), ("relu", nn.ReLU()), ("flatten", nn.Flatten()), ("out", nn.Linear(30, CLASSES)),
    ])).double().eval()
    layers = {"token": ChannelConcept(axis=-1)}
    inputs = torch.rand(7, 5, 4, dtype=torch.float64)
    store = sweep(tmp_path, model=model, data=TensorDataset(inputs, single_targets(7)), layer_map=layers,
                  max_target=max_target)
    assert store.concepts("token") == range(6)
    expected = restate_rows(model, inputs, [[int(t)] for t in single_targets(7)], layers, max_target)
    check_store(store, expected, max_target)


class SortedPairs(Concept):
    """Two groups of channels, defined by the sorting method of zennit-crp alone."""

    def mask(self, batch_id, concept_ids, layer_name=None):
        return ChannelConcept.mask(batch_id, [c for group in concept_ids for c in GROUPS[group]], layer_name)

    def reference_sampling(self, relevance, layer_name=None, max_target="sum", abs_norm=True):
        grouped = torch.stack([relevance[:, group].sum(1).flatten(1) for group in GROUPS], 1)
        value = grouped.sum(2) if max_target == "sum" else grouped.amax(2)
        if abs_norm:
            value = value / value.abs().sum(1, keepdim=True)
        position = grouped.argmax(2)
        order = torch.argsort(value, dim=0, descending=True)
        return order, torch.gather(value, 0, order), torch.gather(position, 0, order)


GROUPS = [[0, 1], [2, 3, 4]]


def test_a_concept_that_overrides_only_reference_sampling_is_unsorted(tmp_path):
    store = sweep(tmp_path, layer_map={"conv": SortedPairs()}, batch_size=5)
    expected = [entry[4] for entry in restated()["conv", "relevance"]]
    grouped = np.array([[strength[group].sum(0) for group in GROUPS] for strength in expected])
    np.testing.assert_allclose(store.values("conv")[:], grouped.sum(2), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(store.positions("conv")[:], grouped.argmax(2))
    assert store.concepts("conv") == range(2)


def test_results_are_read_on_another_device(tmp_path):
    fv = visualization(tmp_path)
    check_store(fv.run(EpsilonPlusFlat(), 0, SAMPLES, on_device="cpu"), restated())


def test_a_composite_without_rules_is_swept_with_gradients(tmp_path):
    store = sweep(tmp_path, composite=Composite())
    model, row = small_model(), images(1)
    conv = model.conv(row)
    output = model[1:](conv)[0, 0]
    gradient, = torch.autograd.grad(output, conv)
    expected = (gradient * output).sum((2, 3))[0].detach()
    np.testing.assert_allclose(store.values("conv")[0], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["tables", "shards"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_folders_that_are_no_store_are_never_touched(tmp_path, name, overwrite):
    (tmp_path / name).mkdir()
    (tmp_path / name / "paper.tex").write_text("mine")
    with pytest.raises(StoreError, match=name):
        sweep(tmp_path, overwrite=overwrite)
    assert (tmp_path / name / "paper.tex").read_text() == "mine"
