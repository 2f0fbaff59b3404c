import functools
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.data import TensorDataset
from zennit.composites import EpsilonGammaBox, EpsilonPlusFlat
from zennit.core import Composite

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept, Concept
from crp.model.samples import SampleError
from crp.store import References, ReferenceStore, StoreError
from crp.store.records import write_record
from crp.visualization import FeatureVisualization

SAMPLES, CLASSES = 13, 3
LAYERS = {"conv": ChannelConcept(), "fc": ChannelConcept()}
QUANTITIES = ["relevance", "activation"]
pytestmark = pytest.mark.usefixtures("quick")


def small_model(classes=CLASSES):
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict([
        ("conv", nn.Conv2d(1, 5, 3)), ("relu", nn.ReLU()), ("flatten", nn.Flatten()), ("fc", nn.Linear(80, 4)),
        ("tanh", nn.Tanh()), ("out", nn.Linear(4, classes)),
    ])).double().eval()


def images(count=SAMPLES):
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def single_targets(count=SAMPLES):
    return torch.arange(count) * 2 % CLASSES


def dataset(count=SAMPLES):
    return TensorDataset(images(count), single_targets(count))


def visualization(path, data=None, model=None, layer_map=LAYERS, kind=FeatureVisualization, **arguments):
    attribution = CondAttribution(small_model() if model is None else model)
    return kind(attribution, dataset() if data is None else data, layer_map, path=path, **arguments)


def sweep(path, *, batch_size=4, checkpoint=2, composite=None, num_workers=0, overwrite=False, **arguments):
    fv = visualization(path, **arguments)
    return fv.run(composite or EpsilonPlusFlat(), 0, len(fv.dataset), batch_size, checkpoint, num_workers=num_workers,
                  overwrite=overwrite)


def restate_rows(model, inputs, targets, layers=LAYERS, max_target="sum"):
    """Per layer and quantity: (sample, target, values, strength of each position) of every row, sample by sample."""
    attribution, found = CondAttribution(model), {}
    for sample, wanted in enumerate(targets):
        for first, target in enumerate(wanted or [None]):
            condition = {"y": [] if target is None else [target]}
            row = inputs[sample]
            row = row[None] if isinstance(row, torch.Tensor) else tuple(part[None] for part in row)
            result = attribution(row, [condition], EpsilonPlusFlat(), list(layers), exclude_parallel=False)
            for quantity, tensors in (("relevance", result.relevances), ("activation", result.activations)):
                if quantity == "relevance" and target is None or quantity == "activation" and first > 0:
                    continue
                for layer, concept in layers.items():
                    per_position = tensors[layer][0].movedim(concept.axis - (concept.axis > 0), 0).flatten(1).numpy() \
                        if tensors[layer].ndim > 2 else tensors[layer][0][:, None].numpy()
                    value = per_position.sum(1) if max_target == "sum" else per_position.max(1)
                    label = target if quantity == "relevance" else -1
                    prediction = int(result.prediction.argmax())
                    found.setdefault((layer, quantity), []).append((sample, label, prediction, value, per_position))
    return found


@functools.cache
def restated(max_target="sum"):
    return restate_rows(small_model(), images(), [[int(t)] for t in single_targets()], max_target=max_target)


def check_store(store, expected, statistic="sum"):
    for (layer, quantity), entries in expected.items():
        rows = store.rows(quantity)
        assert [(row["sample"], row["target"], row["prediction"]) for row in rows] == [entry[:3] for entry in entries]
        values = np.array([entry[3] for entry in entries])
        np.testing.assert_allclose(store.values(layer, quantity, statistic=statistic)[:], values, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(
            store.values(layer, quantity, statistic=statistic, normalised=True)[:],
            values / np.abs(values).sum(1, keepdims=True), rtol=1e-4, atol=1e-7,
        )
        strength = np.array([entry[4] for entry in entries])
        at_position = np.take_along_axis(strength, store.positions(layer, quantity)[:][..., None], 2)[..., 0]
        np.testing.assert_allclose(at_position, strength.max(2), rtol=1e-9, atol=1e-12)


def hooks_of(model):
    return [
        hook for module in model.modules() for hooks in (
            module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
        ) for hook in hooks.values()
    ]


def count_forwarded(model):
    """A list that grows by the number of samples of each forward pass."""
    counts = []

    def count(module, args):
        if module is model:
            counts.append(len(args[0]))

    register_module_forward_pre_hook(count)
    return counts


def restrict(expected, count):
    return {key: entries[:count] for key, entries in expected.items()}


# What the matrices hold

@settings(deadline=None, max_examples=25)
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


MULTI_HOT = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 0], [0, 1, 1], [1, 0, 0]])


@settings(deadline=None, max_examples=20)
@given(batch_size=st.integers(1, 8), checkpoint=st.integers(1, 3), dtype=st.sampled_from(["int", "bool", "float"]))
def test_multi_hot_targets_give_a_row_of_relevance_per_set_bit_and_one_of_activation(batch_size, checkpoint, dtype):
    multi_hot = MULTI_HOT.to(getattr(torch, dtype))
    expected = restate_rows(small_model(), images(7), [torch.nonzero(bits)[:, 0].tolist() for bits in MULTI_HOT])
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


class Items(list):
    pass


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


# What is refused

def check_refused(tmp_path, error, match, **arguments):
    model = small_model()
    with pytest.raises(error, match=match):
        sweep(tmp_path / "store", model=model, **arguments)
    assert not (tmp_path / "store" / "seal.json").exists()
    assert hooks_of(model) == []
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_samples_of_different_shapes_are_named(tmp_path):
    items = [(image, 0) for image in images(6)]
    items[3] = (torch.rand(1, 7, 6).double(), 0)
    check_refused(tmp_path, ValueError, r"samples 0 and 3 .*\(1, 6, 6\).*\(1, 7, 6\)", data=Items(items), batch_size=6)


@pytest.mark.parametrize("value, name", [("a text", "str"), (object(), "object"), (None, "NoneType")])
def test_inputs_that_are_no_arrays_are_refused(tmp_path, value, name):
    check_refused(tmp_path, SampleError, name, data=Items([(value, 0)] * 3))


def test_pil_inputs_are_refused_with_advice(tmp_path):
    check_refused(tmp_path, SampleError, "ToTensor", data=Items([(Image.new("RGB", (6, 6)), 0)] * 3))


@pytest.mark.parametrize("target", [
    1.5, torch.tensor(0.5), torch.tensor([0.2, 0.8]), "cat", torch.eye(2), np.float64(1), None
])
def test_targets_that_name_no_class_are_refused(tmp_path, target):
    check_refused(tmp_path, SampleError, "multitarget_to_single", data=Items([(image, target) for image in images(3)]))


def test_a_target_beyond_the_outputs_is_refused(tmp_path):
    check_refused(tmp_path, IndexError, "0 to 2", data=Items([(image, 3) for image in images(3)]))


@pytest.mark.parametrize("item", [images(1)[0], (1, 2, 3), [images(1)[0]]])
def test_items_without_a_target_are_refused(tmp_path, item):
    check_refused(tmp_path, SampleError, "target", data=Items([item] * 2))


def test_a_dict_without_the_target_key_is_refused(tmp_path):
    check_refused(tmp_path, SampleError, "target_key", data=Items([{"image": images(1)[0], "species": 1}] * 2))


@pytest.mark.parametrize("start, stop", [(0, SAMPLES + 1), (-1, 3), (4, 4), (5, 2), (SAMPLES, SAMPLES)])
def test_a_range_outside_of_the_dataset_is_refused(tmp_path, start, stop):
    fv = visualization(tmp_path / "store")
    for run in (fv.run, fv.run_distributed):
        with pytest.raises(ValueError, match=f"{SAMPLES}"):
            run(EpsilonPlusFlat(), start, stop)
    assert not (tmp_path / "store").exists()


def test_an_unknown_layer_is_refused_with_the_nearest_name(tmp_path):
    check_refused(tmp_path, ValueError, "did you mean 'conv'", layer_map={"conf": ChannelConcept()})
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"checkpoint": 0}, {"max_target": "mean"}])
def test_impossible_options_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        sweep(tmp_path / "store", **arguments)
    assert not (tmp_path / "store").exists()


# Interruptions

class Breakable:
    """A dataset that fails at one sample until it is repaired."""

    def __init__(self, at):
        self.items, self.at = dataset(), at

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        if index == self.at:
            raise RuntimeError("cannot read this file")
        return self.items[index]


def test_known_bug_an_error_leaves_no_hook_and_no_half_shard_and_a_rerun_completes(tmp_path):
    model, data = small_model(), Breakable(at=7)
    with pytest.raises(RuntimeError, match="cannot read"):
        sweep(tmp_path / "store", model=model, data=data, batch_size=2, checkpoint=2)
    assert hooks_of(model) == []
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert [folder.name for folder in (tmp_path / "store" / "shards").iterdir()] == ["00000000"]
    with pytest.raises(StoreError, match="not finished"):
        ReferenceStore(tmp_path / "store")

    data.at = None
    forwarded = count_forwarded(model)
    check_store(sweep(tmp_path / "store", model=model, data=data, batch_size=2, checkpoint=2), restated())
    assert sum(forwarded) <= SAMPLES - 4 + 1


def test_a_resumed_sweep_is_bit_identical(tmp_path):
    sweep(tmp_path / "whole", batch_size=2, checkpoint=2)
    data = Breakable(at=10)
    with pytest.raises(RuntimeError):
        sweep(tmp_path / "resumed", data=data, batch_size=2, checkpoint=2)
    data.at = None
    sweep(tmp_path / "resumed", data=data, batch_size=2, checkpoint=2)
    files = [sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*"))
             for name in ("whole", "resumed")]
    assert files[0] == files[1]
    for file in files[0]:
        if (tmp_path / "whole" / file).is_file():
            assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "resumed" / file).read_bytes(), file


def test_a_killed_process_leaves_nothing_that_a_later_run_keeps(tmp_path):
    script = f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_sweep_and_store as tests

        class Deadly(tests.Breakable):
            def __getitem__(self, index):
                return os._exit(9) if index == self.at else self.items[index]

        tests.sweep({str(tmp_path / "store")!r}, data=Deadly(at=7), batch_size=2, checkpoint=2)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True).returncode == 9
    assert len(list((tmp_path / "store" / "shards").iterdir())) == 2
    check_store(sweep(tmp_path / "store", batch_size=2, checkpoint=2), restated())
    names = sorted(folder.name for folder in (tmp_path / "store" / "shards").iterdir())
    assert names == ["00000000", "00000004", "00000008", "00000012"]


# Running again

def test_running_again_with_the_same_settings_does_not_sweep(tmp_path):
    model = small_model()
    forwarded = count_forwarded(model)
    sweep(tmp_path, model=model)
    assert sum(forwarded) >= SAMPLES
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    forwarded.clear()
    check_store(sweep(tmp_path, model=model), restated())
    assert sum(forwarded) <= 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def changed_model():
    model = small_model()
    with torch.no_grad():
        model.out.bias[0] += 1e-3
    return model


OTHER_SETTINGS = {
    "model.weights": lambda: {"model": changed_model()},
    "composite.rules": lambda: {"composite": EpsilonPlusFlat(epsilon=1e-2)},
    "composite.class": lambda: {"composite": EpsilonGammaBox(low=-1.0, high=1.0)},
    "options.max_target": lambda: {"max_target": "max"},
    "options.batch_size": lambda: {"batch_size": 3},
    "options.checkpoint": lambda: {"checkpoint": 3},
    "dataset.length": lambda: {"data": dataset(SAMPLES - 1)},
    "dataset.samples": lambda: {"data": TensorDataset(images() + 0.1, single_targets())},
    "dataset.samples is": lambda: {"preprocess_fn": lambda data: data / 2},
    "layers.fc": lambda: {"layer_map": {"conv": ChannelConcept()}},
    "layers.relu": lambda: {"layer_map": {**LAYERS, "relu": ChannelConcept()}},
    "layers.conv.concept": lambda: {"layer_map": {**LAYERS, "conv": ChannelConcept(axis=-1)}},
}


@pytest.mark.parametrize("what", OTHER_SETTINGS)
def test_other_settings_are_refused_by_name_unless_the_store_shall_be_replaced(tmp_path, what):
    path, other = tmp_path / "store", OTHER_SETTINGS[what]()
    sweep(path)
    with pytest.raises(StoreError, match=what.replace(".", r"\.")):
        sweep(path, **other)
    check_store(ReferenceStore(path), restated())

    (path / "notes.txt").write_text("mine")
    replaced = sweep(path, overwrite=True, **other)
    fresh = sweep(tmp_path / "fresh", **other)
    assert replaced.layers == fresh.layers
    for layer in fresh.layers:
        np.testing.assert_array_equal(replaced.values(layer)[:], fresh.values(layer)[:])
    assert (path / "notes.txt").read_text() == "mine"


def test_other_samples_are_refused(tmp_path):
    fv = visualization(tmp_path)
    fv.run(EpsilonPlusFlat(), 0, 8, batch_size=2, checkpoint=2)
    with pytest.raises(StoreError, match="samples 0 to 7, not 0 to 12"):
        fv.run(EpsilonPlusFlat(), 0, SAMPLES, batch_size=2, checkpoint=2)
    with pytest.raises(StoreError, match="samples 0 to 7, not 0 to 3"):
        fv.run(EpsilonPlusFlat(), 0, 4, batch_size=2, checkpoint=2)
    check_store(fv.run(EpsilonPlusFlat(), 0, SAMPLES, batch_size=2, checkpoint=2, overwrite=True), restated())


def test_a_dataset_that_changes_by_itself_is_told(tmp_path):
    class Random(Breakable):
        def __getitem__(self, index):
            return torch.rand(1, 6, 6).double(), 0

    with pytest.warns(UserWarning, match="other samples each time"):
        store = sweep(tmp_path, data=Random(at=None))
    assert len(store.targets) == SAMPLES


# Several parts

def run_parts(path, parts, **arguments):
    return [name for first, stop in parts for name in visualization(path, **arguments).run_distributed(
        EpsilonPlusFlat(), first, stop, batch_size=2, checkpoint=1)]


@pytest.mark.parametrize("parts", [[(0, 13)], [(0, 5), (5, 6), (6, 13)], [(9, 13), (0, 4), (4, 9)]])
def test_parts_that_are_collected_equal_one_run(tmp_path, parts):
    shards = run_parts(tmp_path, parts)
    with pytest.raises(StoreError, match="not finished"):
        ReferenceStore(tmp_path)
    store = visualization(tmp_path).collect_results(shards, (0, SAMPLES))
    check_store(store, restated())
    whole = sweep(tmp_path / "whole", batch_size=2)
    for concept in store.concepts("conv"):
        for one, other in zip(store.top("conv", concept, k=40), whole.top("conv", concept, k=40)):
            np.testing.assert_allclose(one, other, rtol=1e-5)


def test_parts_that_overlap_are_refused(tmp_path):
    run_parts(tmp_path, [(4, 8)])
    for first, stop in [(3, 5), (7, 9), (5, 7)]:
        with pytest.raises(StoreError, match="overlap"):
            run_parts(tmp_path, [(first, stop)])


def test_parts_that_overlap_are_refused_before_any_work(tmp_path):
    run_parts(tmp_path, [(4, 8)])
    model = small_model()
    forwarded = count_forwarded(model)
    with pytest.raises(StoreError, match="overlap"):
        run_parts(tmp_path, [(1, 13)], model=model)
    assert sorted(folder.name for folder in (tmp_path / "shards").iterdir()) == ["00000004", "00000006"]
    assert sum(forwarded) <= 1


def test_a_part_that_is_done_is_not_done_again(tmp_path):
    model = small_model()
    first = run_parts(tmp_path, [(0, 6)], model=model)
    forwarded = count_forwarded(model)
    assert run_parts(tmp_path, [(0, 6)], model=model) == first
    assert sum(forwarded) <= 1


def test_missing_shards_and_samples_are_named(tmp_path):
    shards = run_parts(tmp_path, [(0, 4), (8, 13)])
    fv = visualization(tmp_path)
    with pytest.raises(StoreError, match="00000099"):
        fv.collect_results([*shards, "00000099"])
    with pytest.raises(StoreError, match="4 samples, from 4 to 7"):
        fv.collect_results(shards, (0, SAMPLES))
    assert len(fv.collect_results(shards, (8, SAMPLES)).targets) == 9


def test_parts_of_a_sweep_with_other_settings_are_refused(tmp_path):
    run_parts(tmp_path, [(0, 4)])
    with pytest.raises(StoreError, match=r"model\.weights"):
        run_parts(tmp_path, [(4, 8)], model=changed_model())


def test_no_part_is_added_to_a_finished_store(tmp_path):
    sweep(tmp_path)
    with pytest.raises(StoreError, match="finished"):
        run_parts(tmp_path, [(0, 4)])


def test_collecting_where_nothing_was_swept_is_a_store_error(tmp_path):
    with pytest.raises(StoreError):
        visualization(tmp_path / "nothing").collect_results()


# The folder

def test_a_store_consists_of_arrays_and_texts_without_pickle(tmp_path):
    sweep(tmp_path, max_target="max")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".npy", ".json"}
    for path in files:
        if path.suffix == ".npy":
            assert np.load(path, allow_pickle=False).dtype.kind in "fiV"
        else:
            json.loads(path.read_text())


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_a_pickled_payload_in_a_strangers_store_is_refused_and_not_run(tmp_path):
    sweep(tmp_path)
    for file in tmp_path.rglob("*.npy"):
        np.save(file, np.array([Payload(tmp_path / "ran")], dtype=object), allow_pickle=True)
    store = ReferenceStore(tmp_path)
    for read in (lambda: store.values("conv"), lambda: store.top("conv", 0), lambda: store.targets):
        with pytest.raises(StoreError, match="damaged"):
            read()
    assert not (tmp_path / "ran").exists()


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_hashes_of_a_store_are_true(tmp_path):
    sweep(tmp_path, max_target="max")
    manifest_hash = sha256(tmp_path / "manifest.json")
    seal = json.loads((tmp_path / "seal.json").read_text())
    assert seal["manifest"] == manifest_hash
    shards = sorted((tmp_path / "shards").iterdir())
    assert seal["shards"] == {folder.name: sha256(folder / "shard.json") for folder in shards}
    folders = [(tmp_path / "tables", seal["tables"])]
    for folder in shards:
        record = json.loads((folder / "shard.json").read_text())
        assert record["manifest"] == manifest_hash
        folders.append((folder, record["files"]))
    for folder, described in folders:
        files = [path for path in folder.iterdir() if path.name != "shard.json"]
        assert described == {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files}
        assert files


def test_the_manifest_says_what_was_swept(tmp_path):
    sweep(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {"torch", "zennit", "numpy", "python"} <= set(manifest["made_with"])
    assert [(entry["name"], entry["concepts"], entry["position_shape"]) for entry in manifest["settings"]["layers"]] \
        == [("conv", 5, [4, 4]), ("fc", 4, [])]
    assert manifest["settings"]["dataset"]["length"] == SAMPLES


def test_known_bug_the_number_of_files_does_not_depend_on_classes(tmp_path):
    counts = set()
    for classes in (3, 40):
        path = tmp_path / str(classes)
        items = Items((image, i * 3 % classes) for i, image in enumerate(images()))
        store = sweep(path, model=small_model(classes), data=items)
        assert len(np.unique(store.targets)) > (3 if classes > 3 else 0)
        counts.add(len(list(path.rglob("*"))))
    assert len(counts) == 1


@pytest.mark.parametrize("name", ["a/b", "a" * 300, "__", "ä b:c", "C:\\x", "nul"])
def test_layers_of_any_name(tmp_path, name):
    model = small_model()
    odd = nn.Sequential()
    odd.add_module(name, model)
    layer = f"{name}.conv"
    sweep(tmp_path / "store", model=odd, layer_map={layer: ChannelConcept()})
    store = ReferenceStore(tmp_path / "store")
    assert store.layers == [layer]
    expected = np.array([entry[3] for entry in restated()["conv", "relevance"]])
    np.testing.assert_allclose(store.values(layer)[:], expected, rtol=1e-5, atol=1e-7)
    assert {path.parent.parent.name for path in tmp_path.rglob("*.npy")} <= {"shards", "store"}


def test_the_input_of_a_layer_is_swept_under_its_own_name(tmp_path):
    store = sweep(tmp_path, layer_map={"fc:in": ChannelConcept(), "fc": ChannelConcept()})
    assert set(store.layers) == {"fc:in", "fc"} and len(store.concepts("fc:in")) == 80


# Reading

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


# Damaged and foreign folders

def read_everything(path):
    store = ReferenceStore(path)
    for quantity in QUANTITIES:
        store.rows(quantity)
        for layer in store.layers:
            store.top(layer, 0, quantity, 8)
            store.top(layer, 0, quantity, 41, normalised=True)
            np.asarray(store.values(layer, quantity))
            np.asarray(store.positions(layer, quantity))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound")
    sweep(path, batch_size=7, checkpoint=1)
    return path


def store_files(path):
    return sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file() and file.name != "shard.json")


@pytest.mark.parametrize("damage", ["truncated", "empty", "missing", "text"])
def test_any_damaged_file_is_a_store_error(sound, tmp_path, damage):
    for number, file in enumerate(store_files(sound)):
        if "unnormalised" in file.name or "tables" in file.parts and "normalised" not in file.name:
            continue
        copy = tmp_path / str(number)
        shutil.copytree(sound, copy)
        content = (copy / file).read_bytes()
        if damage == "missing":
            (copy / file).unlink()
        else:
            (copy / file).write_bytes({"truncated": content[:-7], "empty": b"", "text": b"hello"}[damage])
        with pytest.raises(StoreError):
            read_everything(copy)
    assert number > 10


@pytest.mark.parametrize("content", [
    "{}", "[]", "null", '{"format": "zarr", "version": 1}', '{"format": "crp-store", "version": 999, "settings": {}}',
    '{"format": "crp-store", "version": 1}', '{"format": "crp-store", "version": 1, "settings": {"layers": [{}]}}',
])
def test_a_foreign_manifest_is_a_store_error(sound, tmp_path, content):
    shutil.copytree(sound, tmp_path / "store")
    (tmp_path / "store" / "manifest.json").write_text(content)
    with pytest.raises(StoreError):
        ReferenceStore(tmp_path / "store")


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"shards": {}}', '{"shards": {"../../x": ""}}'])
def test_a_foreign_seal_is_a_store_error(sound, tmp_path, content):
    shutil.copytree(sound, tmp_path / "store")
    (tmp_path / "store" / "seal.json").write_text(content)
    with pytest.raises(StoreError):
        ReferenceStore(tmp_path / "store")


def test_a_manifest_cannot_point_outside_of_its_folder(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "store")
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    manifest["settings"]["layers"][0]["key"] = "../../../secret"
    (tmp_path / "store" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="was edited"):
        ReferenceStore(tmp_path / "store")
    del manifest["sha256"]
    write_record(tmp_path / "store" / "manifest.json", manifest)
    with pytest.raises(StoreError, match="impossible"):
        ReferenceStore(tmp_path / "store")


@pytest.mark.parametrize("path", ["absent", "empty"])
def test_a_folder_without_a_store_is_a_store_error(tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="no store"):
        ReferenceStore(tmp_path / path)


@pytest.mark.parametrize("content", [None, "", '{"first": 0', "{}"])
def test_a_damaged_shard_record_is_a_store_error_when_a_sweep_goes_on(tmp_path, content):
    run_parts(tmp_path, [(0, 4)])
    record = tmp_path / "shards" / "00000000" / "shard.json"
    record.unlink()
    if content is not None:
        record.write_text(content)
    with pytest.raises(StoreError):
        run_parts(tmp_path, [(4, 8)])
    with pytest.raises(StoreError):
        visualization(tmp_path).collect_results()


def test_a_shard_of_another_sweep_is_refused(tmp_path):
    run_parts(tmp_path / "one", [(0, 4)])
    run_parts(tmp_path / "other", [(4, 8)], model=changed_model())
    shutil.copytree(tmp_path / "other" / "shards" / "00000004", tmp_path / "one" / "shards" / "00000004")
    with pytest.raises(StoreError, match="another manifest"):
        visualization(tmp_path / "one").collect_results()


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


def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    sweep(tmp_path)
    (tmp_path / "shards" / ".hidden").mkdir()
    sweep(tmp_path, overwrite=True, batch_size=5)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_model_with_the_same_weights_but_other_modules_is_refused(tmp_path):
    sweep(tmp_path)
    other = small_model()
    other.tanh = nn.Sigmoid()
    with pytest.raises(StoreError, match="model.modules"):
        sweep(tmp_path, model=other)


def test_a_concept_whose_code_was_edited_is_refused(tmp_path):
    class First(ChannelConcept):
        def read(self, tensor, layer_name=None, max_target="sum"):
            return super().read(tensor * 2, layer_name, max_target)

    first = First()

    class First(ChannelConcept):  # noqa: F811
        def read(self, tensor, layer_name=None, max_target="sum"):
            return super().read(tensor * 3, layer_name, max_target)

    sweep(tmp_path, layer_map={"conv": first})
    with pytest.raises(StoreError, match="concept"):
        sweep(tmp_path, layer_map={"conv": First()})


@pytest.mark.parametrize("target, error, message", [
    ([0, 1], SampleError, "multitarget_to_single"), ((1, 0, 0), SampleError, "multitarget_to_single"),
    (-1, SampleError, "target is -1"),
])
def test_targets_that_could_be_misread_are_refused(tmp_path, target, error, message):
    data = [(image, target) for image in images(3)]
    with pytest.raises(error, match=message):
        sweep(tmp_path, data=data)


def test_nothing_to_sweep_is_said(tmp_path):
    with pytest.raises(ValueError, match="dataset is empty"):
        visualization(tmp_path, data=[]).run(EpsilonPlusFlat(), 0, 0)
    with pytest.raises(ValueError, match="layer_map is empty"):
        visualization(tmp_path, layer_map={}).run(EpsilonPlusFlat(), 0, 3)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is a file"):
        sweep(tmp_path / "file")
