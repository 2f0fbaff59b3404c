"""The command line sweeps, merges, tells and checks."""
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from large_sweeps import Images, contents, run, specification

from crp.cli import main
from crp.cli.runs import info, parse_shard
from crp.model.samples import SampleError
from crp.store import ReferenceStore, verify
from crp.store.folder import Folder

HERE = Path(__file__).parents[1]
SPEC = str(HERE / "large_sweeps.py:specification")
OPTIONS = ["--batch-size", "4", "--checkpoint", "2"]
pytestmark = pytest.mark.usefixtures("quick")


def crp(capsys, *arguments):
    """Exit code, standard output and standard error."""
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as exit:
        code = exit.code
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, quick):
    path = tmp_path_factory.mktemp("undisturbed")
    run(path)
    return path


def test_run_is_run(tmp_path, undisturbed, capsys):
    code, out, _ = crp(capsys, "run", SPEC, "--store", tmp_path / "store", *OPTIONS, "--json")
    assert code == 0 and contents(tmp_path / "store") == contents(undisturbed)
    found = json.loads(out)
    assert found["finished"] and found["samples"] == 40 and found["layers"] == {"conv": 5, "fc": 4}


def test_shards_of_an_array_of_jobs(tmp_path, undisturbed, capsys, monkeypatch):
    store = tmp_path / "store"
    for task in (5, 1):
        for name, value in {"ID": task, "COUNT": 3, "MIN": 1, "STEP": 2}.items():
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        assert crp(capsys, "run", SPEC, "--store", store, *OPTIONS)[0] == 0
    code, _, error = crp(capsys, "merge", store)
    assert code == 1 and "lacks 16 samples, from 8 to 39" in error
    code, out, _ = crp(capsys, "info", store)
    assert code == 0 and "not finished" in out and "24 of 40 (0 to 7, 16 to 31)" in out
    assert crp(capsys, "run", SPEC, "--store", store, *OPTIONS, "--shard", "1/3")[0] == 0
    assert crp(capsys, "merge", store)[0] == 0
    assert contents(store) == contents(undisturbed)


def test_info_and_verify_while_others_write(tmp_path):
    store, others, done = tmp_path / "store", f"other.{os.getpid()}.01234567", threading.Event()
    run(store, checkpoint=10)

    def come_and_go():
        while not done.is_set():
            temporary = store / "shards" / f".99999999.{others}"
            (temporary / "tables").mkdir(parents=True)
            (temporary / "tables" / "rows.npy").touch()
            shutil.rmtree(temporary)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads take turns often
    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(100):
            assert info(store).samples == 40
            assert all(".99999999" in problem for problem in verify(store))
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert verify(store) == []


def test_info_counts_what_is_left_when_a_file_is_removed_meanwhile(tmp_path, monkeypatch):
    store = tmp_path / "store"
    run(store, checkpoint=10)
    expected, others = info(store).bytes, store / "shards" / f".99999999.other.{os.getpid()}.01234567"
    others.mkdir()
    (others / "rows.npy").write_bytes(b"gone")
    names = Folder.names

    def names_and_then_gone(folder):
        found = names(folder)
        if folder.path == others:
            shutil.rmtree(others)
        return found

    monkeypatch.setattr(Folder, "names", names_and_then_gone)
    assert info(store).bytes == expected and not others.exists()


@pytest.mark.slow
def test_shards_as_plain_processes_at_once(tmp_path, undisturbed):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "crp", "run", SPEC, "--store", tmp_path / "store", *OPTIONS, "--threads", "1"]
    processes = [
        subprocess.Popen(command, env={**environment, "SLURM_ARRAY_TASK_ID": str(i), "SLURM_ARRAY_TASK_COUNT": "4"})
        for i in range(4)
    ]
    assert [process.wait() for process in processes] == [0] * 4
    subprocess.run([sys.executable, "-m", "crp", "merge", tmp_path / "store"], check=True)
    assert contents(tmp_path / "store") == contents(undisturbed)


@pytest.mark.parametrize("text, environment, expected", [
    (None, {}, None), ("0/1", {}, (0, 1)), ("2/3", {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "9"}, (2, 3)),
    (None, {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "5"}, (4, 5)),
    (None, {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"}, (3, 4)),
])
def test_shards_are_named(text, environment, expected):
    assert parse_shard(text, environment) == expected


@pytest.mark.parametrize("text", ["3/3", "1", "a/b", "-1/3", "1/0"])
def test_impossible_shards_are_refused(text, tmp_path, capsys):
    code, _, error = crp(capsys, "run", SPEC, "--store", tmp_path / "store", f"--shard={text}")
    assert code == 2 and "a shard is i/n" in error and not (tmp_path / "store").exists()


def test_a_dry_run_does_nothing_but_tells(tmp_path, capsys):
    arguments = ["run", SPEC, "--store", tmp_path / "store", *OPTIONS, "--dry-run"]
    code, out, _ = crp(capsys, *arguments, "--json")
    found = json.loads(out)
    assert code == 0 and not (tmp_path / "store").exists()
    assert (found["samples"], found["shards"], found["concepts"]) == (40, 5, 9)
    run(tmp_path / "real")
    matrices = [file for kind in ("value", "position") for file in tmp_path.glob(f"real/shards/*/*.{kind}.npy")]
    assert found["bytes"] == sum(file.stat().st_size - 128 for file in matrices)
    assert 0 < found["seconds"] < 60 and found["free_bytes"] > 1e6
    code, out, _ = crp(capsys, *arguments, "--shard", "0/2")
    assert code == 0 and "samples: 24" in out and "shards: 3 of 5" in out and "about" in out


def test_tasks_without_a_shard_and_ranges_that_are_none(tmp_path, capsys):
    arguments = ["run", SPEC, "--store", tmp_path / "store", *OPTIONS]
    code, out, _ = crp(capsys, *arguments, "--shard", "7/9")  # of five shards
    assert code == 0 and "samples: 0 of 40" in out
    for more in (["--stop", "41"], ["--start", "-4"], ["--stop", "41", "--dry-run"], ["--start=40", "--shard=0/2"]):
        code, _, error = crp(capsys, *arguments, *more)
        assert code == 1 and "are no range of a dataset of 40" in error
    code, _, error = crp(capsys, *arguments, "--shard", "0/2", "--overwrite")
    assert code == 1 and "whole store" in error


@pytest.fixture(scope="module")
def own_classes(tmp_path_factory, quick):
    """A specification with a class of its own and one in a file beside it, and what a worker made of it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "select.py").write_text("raise AssertionError('this is no module of the standard library')")
    (folder / "beside.py").write_text("import large_sweeps\nclass Beside(large_sweeps.Images):\n    pass\n")
    (folder / "own-1.py").write_text(
        "import beside, large_sweeps\nclass Own(beside.Beside):\n    pass\n"
        "def sweep():\n    return {**large_sweeps.specification(), 'dataset': Own()}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        patch.chdir(folder)
        main(["run", str(folder / "own-1.py"), f"--store={folder / 'store'}", *OPTIONS, "--workers=1", "--threads=1"])
    return folder / "own-1.py", folder / "store"


@pytest.mark.slow
def test_classes_of_a_specification_and_of_a_file_beside_it_reach_the_workers(own_classes):
    found = info(own_classes[1])
    assert found.finished and found.samples == 40


@pytest.mark.slow
def test_workers(own_classes, tmp_path, capsys):
    specification, store = own_classes
    code, *_ = crp(capsys, "run", specification, "--store", tmp_path / "alone", *OPTIONS)
    assert code == 0 and contents(store) == contents(tmp_path / "alone")


def test_verify(tmp_path, capsys):
    run(tmp_path)
    code, out, _ = crp(capsys, "verify", tmp_path)
    assert code == 0 and "is sound" in out
    (tmp_path / "tables" / "L0000.relevance.value.npy").unlink()
    code, out, _ = crp(capsys, "verify", tmp_path, "--json")
    problem, = json.loads(out)["problems"]
    assert code == 1 and "L0000.relevance.value.npy is missing" in problem


def test_info_tells_of_skipped_samples(tmp_path, capsys):
    run(tmp_path, Images(broken=[3]), on_error="skip")
    assert "skipped: 1\n  3: OSError: image3.png is truncated" in crp(capsys, "info", tmp_path)[1]
    with pytest.raises(SampleError):
        run(tmp_path / "part", Images(broken=[3]), checkpoint=3)
    assert json.loads(crp(capsys, "info", tmp_path / "part", "--json")[1])["samples"] == 0


@pytest.mark.parametrize("spec, message", [
    ("nothing.py", "there is no file nothing.py"), ("nothing:sweep", "no file.py, file.py:function or module:function"),
    (f"{HERE}/large_sweeps.py", "has no function 'sweep'"), (f"{HERE}/large_sweeps.py:spezification", "specification"),
    (f"{HERE}/large_sweeps.py:SAMPLES", "has no function 'SAMPLES'"),
    (f"{HERE}/large_sweeps.py:network", "not by a Sequential"),
])
def test_specifications_that_are_none(spec, message, capsys):
    code, _, error = crp(capsys, "run", spec)
    assert code == 1 and message in error


@pytest.mark.parametrize("change, message", [
    ({"model": None}, r"['model'] is missing"), ({"modle": 1}, "['modle'] is unknown"),
])
def test_specifications_with_other_parts(tmp_path, change, message, capsys, monkeypatch):
    made = {key: value for key, value in {**specification(), **change}.items() if value is not None}
    (tmp_path / "spec.py").write_text("def sweep():\n    return made\n")
    monkeypatch.setattr("builtins.made", made, raising=False)
    code, _, error = crp(capsys, "run", tmp_path / "spec.py")
    assert code == 1 and message in error


def test_stores_that_are_none(tmp_path, capsys):
    for command in ("info", "merge"):
        code, _, error = crp(capsys, command, tmp_path)
        assert code == 1 and "there is no store" in error
    code, out, _ = crp(capsys, "verify", tmp_path)
    assert code == 1 and "there is no store" in out


def test_arguments_that_make_no_sense_have_their_own_code(capsys):
    for arguments in (
        ["run"], ["fly"], ["run", SPEC, "--keep", "some"], ["export", "store"], ["run", SPEC, "--batch-size", "0"],
    ):
        assert crp(capsys, *arguments)[0] == 2


def test_export(tmp_path, undisturbed, capsys):
    code, out, _ = crp(capsys, "export", undisturbed, "--zarr", tmp_path / "zarr")
    assert code == 0 and out.split() == ["conv", "fc"]
    code, out, _ = crp(capsys, "export", undisturbed, "--parquet", tmp_path / "parquet")
    assert code == 0 and len(out.split()) == 4
    code, _, error = crp(capsys, "export", undisturbed, "--zarr", tmp_path / "zarr")
    assert code == 1 and "exists already" in error
    assert ReferenceStore(undisturbed).layers == ["conv", "fc"]


def test_an_interrupt_ends_with_one_line(tmp_path, undisturbed):
    command = [sys.executable, "-m", "crp", "run", f"{HERE / 'large_sweeps.py'}:slow_specification"]
    options = ["--store", str(tmp_path / "store"), *OPTIONS]
    obey = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # whoever runs the tests may have it ignored
    process = subprocess.Popen(
        [*command, *options], stderr=subprocess.PIPE, text=True, preexec_fn=obey,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    shards = tmp_path / "store" / "shards"
    deadline = time.monotonic() + 60
    while not (shards.is_dir() and list(shards.glob("*/shard.json"))) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.endswith("crp run: interrupted\n") and "Traceback" not in error and "ignored" not in error
    main(["run", SPEC, "--store", str(tmp_path / "store"), *OPTIONS])
    assert contents(tmp_path / "store") == contents(undisturbed)
