"""With --json, every command prints its answer, which has the command's schema, and nothing else."""
import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from large_sweeps import Images, run, specification
from pydantic import TypeAdapter, ValidationError

from crp.analysis import class_shares
from crp.cli import main
from crp.cli.answers import Failure, StoreInfo, Verification
from crp.cli.command_line import build_parser
from crp.cli.concept_answers import Reference
from crp.cli.schemas import ANSWERS, schema
from crp.neurons import Ranking, rank
from crp.neurons.method_names import OF_ONE_MODEL
from crp.neurons.methods import METHODS as RANKINGS
from crp.store import ReferenceStore, StoreError
from crp.trust import TrustReport

HERE = Path(__file__).parents[1]
SPEC = str(HERE / "large_sweeps.py:specification")
pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def store(tmp_path_factory, quick):
    path = tmp_path_factory.mktemp("answers") / "store"
    run(path)
    return path


def answer(capsys, *arguments):
    """Exit code, and what the one line of standard output says."""
    code = 0
    try:
        main([*map(str, arguments), "--json"])
    except SystemExit as end:
        code = end.code
    line, = capsys.readouterr().out.splitlines()
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    kinds = ANSWERS.get(arguments[0], ())
    parsed = TypeAdapter(Failure if "error" in found else kinds[0] if len(kinds) == 1 else kinds[0] | kinds[1])
    assert parsed.dump_python(parsed.validate_python(found), mode="json") == found  # nothing missing, nothing besides
    return code, found


def test_every_command_has_a_schema_that_describes_each_field():
    commands = next(action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    assert list(commands.choices) == list(ANSWERS)
    for name, command in commands.choices.items():
        assert any(action.dest == "json" for action in command._actions)
        for kind in schema(name)["$defs"].values():
            assert all("description" in field for field in kind["properties"].values())


@pytest.mark.parametrize("arguments", [
    ["info"], ["merge"], ["verify"], ["concepts", "--layer", "conv"], ["classes", "--layer", "conv", "--concept", "1"],
    ["references", "--layer", "fc", "--concept", "0", "--quantity", "activation"],
    ["patterns", "--layer", "conv", "--min-pattern-size", "3"], ["maps", "--layer", "conv", "--method", "pca"],
    ["export", "--zarr"], ["export", "--parquet"], ["rank"], ["rank", "--by", "probe", "--layer", "fc", "--most", "2"],
    ["rank", "--by", "anova", "--layer", "conv", "--layer", "fc", "--out", "ranking.png"],
    ["rank", "--by", "anova", "--target", "1", "--quantity", "relevance"],
], ids=" ".join)
def test_commands_that_read_a_store(arguments, store, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, *rest = arguments
    code, found = answer(capsys, command, store, *rest, *(["out"] if command == "export" else []))
    assert code == 0 and "error" not in found


def test_commands_that_execute_a_specification(tmp_path, capsys):
    (tmp_path / "loud.py").write_text(
        "import os, large_sweeps\nprint('read')\n"
        "def sweep():\n    print('made')\n    os.system('echo started')\n    return large_sweeps.specification()\n"
    )
    for command in (["run", "--dry-run"], ["run"], ["audit", "--samples", 2]):
        options = [] if command[0] == "audit" else ["--store", tmp_path / "store", "--batch-size", 8]
        _, found = answer(capsys, command[0], tmp_path / "loud.py", *command[1:], *options)
        assert "error" not in found
    assert found["samples"] == 2 and found["model"] == "Sequential"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
    done = subprocess.run(
        [sys.executable, "-m", "crp", "audit", str(tmp_path / "loud.py"), "--json"], env=environment, text=True,
        capture_output=True,
    )
    assert json.loads(done.stdout)["conserved"] == (done.returncode == 0)
    assert {"read", "made", "started"} <= set(done.stderr.split())


@pytest.mark.parametrize("arguments, code, message", [
    (["info", "nowhere"], 1, "nowhere"), (["fly"], 2, "invalid choice"), (["info"], 2, "STORE"),
    (["run", "nothing.py"], 1, "crp run: there is no file nothing.py"),
    (["run", SPEC, "--shard", "0/2", "--overwrite"], 1, "--overwrite replaces a whole store"),
])
def test_errors_are_answers_too(arguments, code, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended, found = answer(capsys, *arguments)
    assert (ended, found["code"]) == (code, code) and message in found["error"]


def test_flags_may_be_shortened(store, capsys):
    main(["verify", str(store), "--js"])
    assert json.loads(capsys.readouterr().out)["sound"]


@pytest.mark.parametrize("arguments, message", [
    (["--concept", "5"], "concept id 5 is out of range: those of layer 'conv' are 0 to 4"),
    (["--concept", "1", "--target", "9"], "there is no sample of class 9"),
    (["--concept", "1", "--layer", "cnov"], "did you mean 'conv'"),
])
def test_questions_about_what_is_not_there(arguments, message, store, capsys):
    code, found = answer(capsys, "references", store, "--layer", "conv", *arguments)
    assert code == 1 and message in found["error"]
    code, found = answer(capsys, "concepts", store, "--layer", "conv", "--sample", "99")
    assert code == 1 and "holds no sample 99; it holds 0 to 39" in found["error"]


def test_numbers_that_are_none_and_text_that_cannot_be_written():
    assert Reference(sample=0, value=np.float32("nan"), position=None).model_dump()["value"] is None
    assert Reference(sample=0, value=-np.inf, position=None).model_dump()["value"] is None
    found = Verification(store=os.fsdecode(b"/\xff"), sound=False, problems=["\ud800 \x9b \u202e"]).as_json()
    assert found.isascii() and json.loads(found)["store"] == "/?" and json.loads(found)["problems"] == ["? \x9b \u202e"]
    with pytest.raises(ValidationError):
        StoreInfo(store="store")


def test_concepts_of_a_class_and_of_a_sample(store, capsys):
    shares = class_shares(ReferenceStore(store), "conv")
    target = int(shares.classes[1])
    _, found = answer(capsys, "concepts", store, "--layer", "conv", "--target", target, "--most", 3)
    expected = np.argsort(-shares.of_class(target), kind="stable")[:3]
    assert [concept["concept"] for concept in found["concepts"]] == expected.tolist() and found["of"] == 5
    _, found = answer(capsys, "concepts", store, "--layer", "conv", "--sample", 7)
    row, = np.flatnonzero(ReferenceStore(store).rows()["sample"] == 7)
    values = np.asarray(ReferenceStore(store).values("conv")[[row]])[0]
    values = values / np.abs(values).sum()
    assert {c["concept"]: c["share"] for c in found["concepts"]} == pytest.approx(dict(enumerate(values)), abs=1e-6)
    for concept in found["concepts"]:
        _, classes = answer(capsys, "classes", store, "--layer", "conv", "--concept", concept["concept"])
        assert {name: classes[name] for name in ("clarity", "serves", "portion")} == {
            name: concept[name] for name in ("clarity", "serves", "portion")
        }
        portions = [part["portion"] for part in classes["classes"]]
        assert portions == [None] * len(portions) or sum(portions) == pytest.approx(1)


def test_references_with_their_positions(store, capsys):
    read = ReferenceStore(store)
    _, found = answer(capsys, "references", store, "--layer", "conv", "--concept", 2, "--most", 4)
    top = read.top("conv", 2, k=4)
    shape = read.entry("conv").position_shape
    for i, reference in enumerate(found["references"]):
        assert reference["sample"] == top.samples[i] and reference["value"] == pytest.approx(float(top.values[i]))
        assert np.ravel_multi_index(reference["position"], shape) == top.positions[i]
        assert reference["targets"] == read.targets[read.rows()["sample"] == top.samples[i]].tolist()
        assert reference["names"] == list(map(str, reference["targets"]))
    _, found = answer(capsys, "references", store, "--layer", "fc", "--concept", 2)
    assert all(reference["position"] is None for reference in found["references"])


def test_names_of_classes(store, tmp_path, capsys):
    classes = ReferenceStore(store).profile_of_classes("conv")[0]
    names = tmp_path / "names.txt"
    names.write_text("\n".join(["crane"] * 2 + [f"class {i}" for i in range(2, classes.max() + 1)]), encoding="utf-8")
    _, found = answer(capsys, "classes", store, "--layer", "conv", "--concept", 1, "--class-names", names)
    by_number = {part["target"]: part["name"] for part in found["classes"]}
    assert by_number[1] == "crane (1)" and by_number[2] == "class 2"
    _, found = answer(capsys, "maps", store, "--layer", "conv", "--method", "pca", "--class-names", names,
                      "--out", tmp_path / "out")
    assert found["responses"]["crane (1)"].endswith("relevance-responses-1-crane_1_.png")
    assert all(Path(picture).is_file() for picture in found["responses"].values())
    names.write_text("one")
    code, found = answer(capsys, "classes", store, "--layer", "conv", "--concept", 1, "--class-names", names)
    assert code == 1 and "no name for class" in found["error"]


def test_stores_without_matrices_answer_as_well(tmp_path, store, capsys):
    run(tmp_path / "top", keep="top")
    for command in (["concepts"], ["classes", "--concept", 1], ["references", "--concept", 1]):
        found, expected = (
            answer(capsys, command[0], path, "--layer", "conv", *command[1:])[1] for path in (tmp_path / "top", store)
        )
        del found["store"], expected["store"]
        for reference in (*found.get("references", []), *expected.get("references", [])):
            del reference["targets"], reference["names"]
        assert str(found)[:300] == str(expected)[:300]
    with pytest.raises(StoreError):
        ReferenceStore(tmp_path / "top").values("conv")[:]


# Rankings and ablation

def test_the_command_knows_the_rankings_of_a_store():
    assert set(OF_ONE_MODEL) == {name for name, method in RANKINGS.items() if not method.several}


def test_rankings_are_those_of_the_library_and_stay_in_the_store(store, capsys):
    _, found = answer(capsys, "rank", store, "--by", "anova", "--layer", "fc", "--most", 3)
    opened = ReferenceStore(store)
    ranking = rank(opened, by="anova", layers="fc")
    assert [unit["unit"] for unit in found["units"]] == ranking.top(3)
    np.testing.assert_allclose([unit["score"] for unit in found["units"]], ranking.scores[:3])
    assert found["classes"] == ["0", "1", "2"] and found["of"] == 4
    assert Ranking.load(opened, "anova", layers="fc").units == ranking.units


def test_labels_come_from_a_file(store, capsys, tmp_path):
    labels = ["" if i % 4 == 0 else "even" if i % 2 == 0 else "odd" for i in range(40)]
    (tmp_path / "labels.txt").write_text("\n".join(labels) + "\n")
    of_file = ["--by", "probeless", "--labels", tmp_path / "labels.txt"]
    _, found = answer(capsys, "rank", store, *of_file, "--target", "odd")
    assert (found["rows"], found["left_out"], found["classes"]) == (30, 10, ["even", "odd"])
    (tmp_path / "labels.txt").write_text("1\n2\n")
    _, found = answer(capsys, "rank", store, "--by", "anova", "--labels", tmp_path / "labels.txt")
    assert "there are 2 labels, but the store has 40 rows" in found["error"]
    _, found = answer(capsys, "rank", store, "--by", "anova", "--target", "9")
    assert "there is no class '9'; there are 0, 1, 2" in found["error"]


def test_ablation_by_the_rankings_of_a_store(store, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, found = answer(
        capsys, "ablate", SPEC, "--store", store, "--layer", "fc", "--set-to", "zero", "--random", 2, "--samples", 12,
        "--by", "relevance", "--by", "anova",
    )
    assert code == 0 and [area["ranking"] for area in found["areas"]] == ["relevance", "anova"]
    assert found["samples"] == 12 and Path(found["picture"]).is_file()
    model = specification()["model"]
    images, classes = zip(*(Images()[int(i)] for i in np.linspace(0, 39, 12).round()))
    expected = (model(torch.stack(images)).argmax(1) == torch.tensor(classes)).float().mean()
    assert found["whole"] == pytest.approx(float(expected))
    main(["ablate", SPEC, "--store", str(store), "--layer", "conv", "--set-to", "mean", "--random", "1"])
    assert "with the least first" in capsys.readouterr().out


def unseen_images():
    """Samples that were not swept."""
    return [(image.flip(0), target) for image, target in (Images()[i] for i in range(8))]


def test_trust_in_the_concepts_of_a_store(store, capsys, tmp_path):
    folder = tmp_path / "trust"
    code, found = answer(capsys, "trust", SPEC, "--store", store, "--layer", "fc", "--samples", 6, "--out", folder)
    layer, = found["layers"]
    report = TrustReport.load(ReferenceStore(store), "fc")
    assert code == (0 if report.holds else 1) and layer["holds"] == report.holds and not found["held_out"]
    assert [check["name"] for check in layer["checks"]] == ["closed", "faithful", "sane", "stable", "clear"]
    assert [check["sentence"] for check in layer["checks"]] == [check.sentence for check in report.checks]
    first = layer["concepts"][0]
    assert first["concept"] == report["concept"][report.order("share")[0]] and layer["of"] == 4
    assert first["sentence"] == report.sentence(first["concept"]) and Path(layer["picture"]).parent == folder
    assert Path(layer["picture"]).is_file()
    unseen = f"{Path(__file__)}:unseen_images"
    _, found = answer(
        capsys, "trust", SPEC, "--store", store, "--layer", "fc", "--held-out", unseen, "--out", folder, "--most", 1
    )
    assert found["held_out"] and found["rows"] == 8 and len(found["layers"][0]["concepts"]) == 1
    _, found = answer(capsys, "trust", SPEC, "--store", store, "--layer", "fd", "--out", folder)
    assert "no layer 'fd'; did you mean 'fc'?" in found["error"]


def test_trust_in_words(store, capsys, tmp_path):
    try:
        main(["trust", SPEC, "--store", str(store), "--layer", "fc", "--samples", "6", "--out", str(tmp_path)])
    except SystemExit as end:
        assert end.code == 1
    out = capsys.readouterr().out
    assert "fc: " in out and "closed" in out and "Concept " in out and ".png" in out
