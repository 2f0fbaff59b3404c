"""Copies of a store hold what the store does, and open without a warning."""
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from large_sweeps import run

from crp.store import ReferenceStore, StoreError, export_parquet, export_zarr
from crp.store.export import group_names

pytestmark = pytest.mark.usefixtures("quick")
QUANTITIES = ("relevance", "activation")


@pytest.fixture(scope="module")
def store(tmp_path_factory, quick):
    return run(tmp_path_factory.mktemp("store"), checkpoint=3)


@pytest.fixture
def without_plain_names(store, monkeypatch):
    """The same store with layers that no folder can be named like."""
    entries = {f"{name}/ö": entry for name, entry in store._entries.items()}
    monkeypatch.setattr(store, "_entries", entries)
    return store


def test_zarr_opens_in_xarray(store, tmp_path):
    xarray = pytest.importorskip("xarray")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert export_zarr(store, tmp_path / "zarr") == ["conv", "fc"]
        tree = xarray.open_datatree(tmp_path / "zarr", engine="zarr")
        assert set(tree.children) == {"conv", "fc"}
        for layer in store.layers:
            group = xarray.open_zarr(tmp_path / "zarr", group=layer, chunks=None)
            assert group.attrs["layer"] == layer
            for quantity in QUANTITIES:
                assert group[quantity].dims == (f"{quantity}_row", "concept")
                assert np.array_equal(group[quantity].values, store.values(layer, quantity)[:])
                assert np.array_equal(group[f"{quantity}_sample"].values, store.rows(quantity)["sample"])
                assert np.array_equal(group[f"{quantity}_target"].values, store.rows(quantity)["target"])
            assert np.array_equal(tree[layer]["relevance"].values, group["relevance"].values)


def test_parquet(store, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    files = export_parquet(store, tmp_path / "parquet")
    assert [file.name for file in files] == [f"{layer}.{quantity}.parquet" for layer in store.layers
                                             for quantity in QUANTITIES]
    for file in files:
        layer, quantity, _ = file.name.split(".")
        table = parquet.read_table(file)
        assert table.schema.metadata[b"layer"] == layer.encode()
        assert np.array_equal(table["sample"].to_numpy(), store.rows(quantity)["sample"])
        values = np.stack(table["values"].to_pandas())
        assert values.dtype == np.float32 and np.array_equal(values, store.values(layer, quantity)[:])


def test_layers_that_no_folder_can_be_named_like(without_plain_names, tmp_path):
    assert export_zarr(without_plain_names, tmp_path / "zarr") == ["L0000", "L0001"]
    assert export_parquet(without_plain_names, tmp_path / "parquet")[0].name == "L0000.relevance.parquet"


@pytest.mark.parametrize("layers, expected", [
    (["conv", "Conv", "fc"], ["L0000", "L0001", "fc"]), (["L0001", "b"], ["L0000", "b"]),
    (["l0001", "b", "c"], ["L0000", "b", "c"]), (["a/b", "a.b", "a.b."], ["L0000", "a.b", "L0002"]),
    ([".zgroup", "..", "-x"], ["L0000", "L0001", "L0002"]), (["x" * 101, "x" * 100], ["L0000", "x" * 100]),
])
def test_names_of_layers_never_collide(store, monkeypatch, layers, expected):
    entry = store.entry("conv")
    entries = {name: entry.model_copy(update={"key": f"L{number:04d}"}) for number, name in enumerate(layers)}
    monkeypatch.setattr(store, "_entries", entries)
    names = list(group_names(store).values())
    assert names == expected and len({name.casefold() for name in names}) == len(names)


def ask_for_last_layer(store, monkeypatch, happens):
    """Let something happen when an export reads its last layer."""
    values = store.values

    def asked(layer, *arguments, **options):
        if layer == "fc":
            happens()
        return values(layer, *arguments, **options)

    monkeypatch.setattr(store, "values", asked)


@pytest.mark.parametrize("export", [export_zarr, export_parquet])
def test_an_interrupted_export_leaves_nothing(export, store, tmp_path, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    ask_for_last_layer(store, monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(store, tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("export", [export_zarr, export_parquet])
def test_a_killed_export_is_absent_and_the_next_one_removes_its_parts(export, store, tmp_path):
    code = f"import test_export; test_export.be_killed({export.__name__!r}, {str(store.path)!r}, {str(tmp_path)!r})"
    here = Path(__file__).parent
    killed = subprocess.run([sys.executable, "-c", code], cwd=here, env={
        **os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), *sys.path])
    })
    assert killed.returncode == 9
    unfinished, = tmp_path.iterdir()
    assert unfinished.name.startswith(".copy.") and any("conv" in str(path) for path in unfinished.rglob("*"))
    export(store, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def be_killed(export, path, folder):
    store = ReferenceStore(path)
    with pytest.MonkeyPatch.context() as patch:
        ask_for_last_layer(store, patch, lambda: os._exit(9))
        {"export_zarr": export_zarr, "export_parquet": export_parquet}[export](store, Path(folder) / "copy")


@pytest.mark.parametrize("export, library", [(export_zarr, "zarr"), (export_parquet, "pyarrow")])
def test_what_is_needed(export, library, store, tmp_path, monkeypatch):
    top = run(tmp_path / "top", keep="top")
    with pytest.raises(StoreError, match="keep='all'"):
        export(top, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"crp-concepts\[{'zarr' if library == 'zarr' else 'parquet'}\]"):
        export(store, tmp_path / "other")


def test_half_precision_is_exported_as_numbers(tmp_path):
    half = run(tmp_path / "half", dtype="float16")
    parquet = pytest.importorskip("pyarrow.parquet")
    files = export_parquet(half, tmp_path / "parquet")
    values = np.stack(parquet.read_table(files[0])["values"].to_pandas())
    assert np.array_equal(values, ReferenceStore(tmp_path / "half").values("conv")[:])
