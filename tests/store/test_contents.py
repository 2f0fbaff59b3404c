"""Contents whose hashes are right, and which no sweep writes, are refused when they are read, merged and verified."""
import hashlib
import os
import subprocess
import zipfile

import numpy as np
import pytest
from hostile_stores import SAMPLES, make
from large_sweeps import Images, visualization
from store_files import forge, read, write
from zennit.composites import EpsilonPlusFlat

from crp.analysis import Patterns
from crp.cli.runs import merge
from crp.store import ReferenceStore, StoreError, verify
from crp.store.place import place_of_store
from crp.store.records import LARGEST_RECORD, record_bytes
from crp.store.schema import LONGEST_REASON, MOST_SKIPPED
from crp.store.shards import reasons_of

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def store(tmp_path):
    make(tmp_path / "store", "all")
    return tmp_path / "store"


def change(file, edit):
    """Edit an array in place, or put what the edit returns in its place."""
    array = np.load(file)
    edited = edit(array)
    np.save(file, array if edited is None else edited)


def field(name, values):
    def edit(rows):
        rows[name][:len(values)] = values
    return edit


def refuse(store, question, message):
    forge(store)
    with pytest.raises(StoreError, match=message):
        question(ReferenceStore(store))
    assert verify(store)


@pytest.mark.parametrize("quantity, name, values", [
    ("relevance", "sample", [3, -2 ** 63, -2, 3]), ("activation", "sample", [2, -2 ** 63, -2, 3]),
    ("activation", "sample", [0, 0]), ("relevance", "sample", [1, 0]), ("relevance", "target", [-2]),
])
def test_rows_that_are_not_those_of_the_samples(store, quantity, name, values):
    change(store / "shards" / "00000000" / f"{quantity}.rows.npy", field(name, values))
    refuse(store, lambda opened: opened.rows(quantity), "00000000/.*is damaged")


def test_positions_that_samples_do_not_have(store):
    for table in (store / "tables").glob("L0000.activation.*.npy"):
        change(table, lambda rows: rows["position"].fill(2 ** 30))
    forge(store)
    assert verify(store) == []  # samples of a sweep may differ in size
    fv = visualization(store, Images(length=SAMPLES))
    with pytest.raises(StoreError, match="references of layer 'conv' .* neuron 1073741824 is out of range"):
        fv.get_max_reference([0], "conv", "activation", composite=EpsilonPlusFlat(), rf=True, plot_fn=None)


@pytest.mark.parametrize("reason", ["x" * 99, "\U0001f600" * 2000, "\0\"\n" * 999, "a" * 50 + "é" * 900])
def test_reasons_of_many_skipped_samples_fit_into_a_record(reason):
    skipped = dict.fromkeys(range(MOST_SKIPPED), reason)
    assert len(record_bytes({"skipped": reasons_of(skipped)})) < LARGEST_RECORD
    assert reason.startswith(reasons_of({0: reason})["0"])
    assert len(reasons_of({0: "x" * 2000})["0"]) == LONGEST_REASON


def test_positions_out_of_range(store):
    change(store / "shards" / "00000004" / "L0000.relevance.position.npy", lambda array: array * 0 - 1)
    refuse(store, lambda opened: opened.top("conv", 0, target=1), "L0000.relevance.position.npy is damaged")


def test_tables_that_are_too_deep(store):
    for file in (store / "tables").glob("L0000.*"):
        change(file, lambda array: np.concatenate([array] * 4, 1))
    refuse(store, lambda opened: opened.table("conv"), "tables/L0000.*is damaged: it holds 48 rows")


@pytest.mark.parametrize("change_seal", [
    lambda seal: seal.update(shards=dict(reversed(seal["shards"].items()))), lambda seal: seal.update(samples=[[0, 8]]),
    lambda seal: seal["skipped"].update({"3": "x"}),
])
def test_a_seal_that_says_other_samples_than_the_shards(store, change_seal):
    seal = read(store / "seal.json")
    change_seal(seal)
    write(store / "seal.json", seal)
    with pytest.raises(StoreError, match="seal.json says other samples"):
        ReferenceStore(store).rows()
    assert verify(store)


@pytest.mark.parametrize("positions", [[2 ** 30, 2 ** 30, 2 ** 30], [2 ** 16, 2 ** 16]])
def test_positions_that_cannot_be_numbered(store, positions):
    manifest = read(store / "manifest.json")
    manifest["settings"]["layers"][0]["position_shape"] = positions
    write(store / "manifest.json", manifest)
    with pytest.raises(StoreError, match="manifest.json.*settings.layers.0.*positions"):
        ReferenceStore(store)


@pytest.mark.parametrize("name, edit", [
    ("classes", lambda array: array[::-1]), ("classes", lambda array: array[:1]),
    ("relevance.class_count", lambda array: array * 0),
    ("L0000.activation.class_sum", lambda array: array[:1]), ("L0001.relevance.value", field("sample", [11])),
    ("L0001.relevance.value_normalised", field("row", [2 ** 62])),
])
def test_tables_of_shards_are_checked_before_they_are_merged(tmp_path, name, edit):
    make(tmp_path, "unfinished_top")
    change(tmp_path / "shards" / "00000000" / f"{name}.npy", edit)
    forge(tmp_path)
    with pytest.raises(StoreError, match="shards/00000000/.* is damaged"):
        merge(tmp_path, 0, 8)
    assert verify(tmp_path) and not (tmp_path / "seal.json").exists()


@pytest.mark.parametrize("text", [b'"' * (LARGEST_RECORD - 100), '{"a": "\U0001f600'.encode() + b"x" * 10 ** 6 + b'"'])
def test_records_take_no_more_memory_than_such_a_text(store, text):

    text += b"\n}"
    digest = hashlib.sha256(text).hexdigest()
    (store / "manifest.json").write_bytes(text[:-2] + f',\n "sha256": "{digest}"\n}}'.encode())
    with pytest.raises(StoreError, match="manifest.json is damaged: .*(ascii|a name and a text)"):
        place_of_store(store)


@pytest.mark.parametrize("how", ["lzma", "far"])
def test_archives_that_would_unpack_anyhow(store, how):
    file, = (store / "patterns").glob("*.npz")
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA if how == "lzma" else zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    if how == "far":
        content = bytearray(file.read_bytes())
        place = content.index(b"PK\x01\x02")
        content[place + 42:place + 46] = b"\xfe\xff\xff\xff"
        file.write_bytes(content)
    refuse_patterns(store)


def refuse_patterns(store):
    forge(store)
    with pytest.raises(StoreError, match="npz holds no 'crp-patterns 1'"):
        Patterns.load(ReferenceStore(store), layer="fc")


def test_folders_that_lie_deep_are_named_and_not_followed(store):
    place = os.open(store, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=place)
        below = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    assert [problem for problem in verify(store) if "too deep" in problem]
    subprocess.run(["rm", "-r", store / "d"], check=True)


def test_sound_stores_are_found_sound(store, tmp_path):
    assert verify(store) == []
    for kind in ("top", "float16", "unfinished", "unfinished_top"):
        make(tmp_path / kind, kind)
        assert verify(tmp_path / kind) == []
