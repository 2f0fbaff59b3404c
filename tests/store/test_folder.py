"""What the folder of a store holds."""
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from small_sweeps import SAMPLES, Items, images, restated, small_model, sweep
from torch import nn

from crp.concepts import ChannelConcept
from crp.store import ReferenceStore, StoreError

pytestmark = pytest.mark.usefixtures("quick")


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
