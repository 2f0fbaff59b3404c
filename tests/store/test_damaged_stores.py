"""Damaged and foreign folders."""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from large_sweeps import contents
from small_sweeps import QUANTITIES, changed_model, run_parts, sweep, visualization
from store_files import write

from crp.store import ReferenceStore, StoreError

pytestmark = pytest.mark.usefixtures("quick")


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
    return sorted(name for name in map(Path, contents(path)) if name.name != "shard.json")


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
    write(tmp_path / "store" / "manifest.json", manifest)
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
