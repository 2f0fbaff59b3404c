"""Sweeps that were interrupted, and sweeps that run again."""
import os
import shutil
import threading

import numpy as np
import pytest
import torch
from small_sweeps import (
    LAYERS,
    PROBES,
    SAMPLES,
    Breakable,
    changed_model,
    check_store,
    count_forwarded,
    dataset,
    hooks_of,
    images,
    restated,
    single_targets,
    small_model,
    sweep,
    visualization,
)
from torch import nn
from torch.utils.data import TensorDataset
from tqdm.auto import tqdm
from zennit.composites import EpsilonGammaBox, EpsilonPlusFlat

from crp.concepts import ChannelConcept
from crp.model.samples import SampleError
from crp.store import ReferenceStore, StoreError

pytestmark = pytest.mark.usefixtures("quick")


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
    assert sum(forwarded) <= SAMPLES - 4 + PROBES


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
    class Deadly(Breakable):
        def __getitem__(self, index):
            return os._exit(9) if index == self.at else self.items[index]

    child = os.fork()
    if child == 0:
        try:
            tqdm.set_lock(threading.RLock())  # one that forked processes do not share
            torch.set_num_threads(1)  # those of the parent are not there
            sweep(tmp_path / "store", data=Deadly(at=7), batch_size=2, checkpoint=2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
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
    assert sum(forwarded) <= PROBES
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


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


@pytest.fixture(scope="module")
def swept(tmp_path_factory, quick):
    return sweep(tmp_path_factory.mktemp("swept") / "store").path


@pytest.mark.parametrize("what", OTHER_SETTINGS)
def test_other_settings_are_refused_by_name(swept, what):
    with pytest.raises(StoreError, match=what.replace(".", r"\.")):
        sweep(swept, **OTHER_SETTINGS[what]())
    check_store(ReferenceStore(swept), restated())


@pytest.mark.parametrize("what", [
    pytest.param(what, marks=[] if what in ("model.weights", "layers.relu") else pytest.mark.slow)
    for what in OTHER_SETTINGS
])
def test_a_store_of_other_settings_may_be_replaced(tmp_path, swept, what):
    path, other = shutil.copytree(swept, tmp_path / "store"), OTHER_SETTINGS[what]()
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
