"""Ten questions about the demo's store, answered by commands alone, are answered right."""
import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from crp.attribution import CondAttribution
from crp.cli import main
from crp.cli.schemas import ANSWERS, schema
from crp.composites import default_composite
from crp.demo import digits

SPEC, LAYER = "crp.demo.digits:digit_sweep", "relu3"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def network():
    return digits.train_digit_network(digits.digit_datasets()[0], epochs=8)


@pytest.fixture(scope="module")
def ask(network, tmp_path_factory):
    """A function that asks a command about the store, the specification, or another folder."""
    store = tmp_path_factory.mktemp("demo") / "store"
    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as output:
        patch.setattr(digits, "train_digit_network", lambda training: copy.deepcopy(network))
        patch.chdir(store.parent)

        def ask(command, *arguments, about=None):
            printed = []
            output.setattr("crp.cli.command_line.print_lines", printed.extend)
            about = SPEC if command in ("run", "audit") else about or store
            try:
                main([command, str(about), *map(str, arguments), "--json"])
            except SystemExit:
                pass
            return json.loads("".join(printed))

        assert ask("run", "--store", store)["finished"]
        ask.store = store
        yield ask


@pytest.fixture(scope="module")
def truth(network):
    """Activation and relevance of each training digit, [samples, concepts], and its class."""
    training, _ = digits.digit_datasets()
    images, classes = training.tensors
    found = CondAttribution(network)(
        images, [{"y": [int(digit)]} for digit in classes], default_composite(network), record_layer=[LAYER],
        heatmap=False,
    )
    sums = [tensors[LAYER].flatten(2).sum(2).numpy() for tensors in (found.activations, found.relevances)]
    return *sums, classes.numpy()


def test_which_layers_are_there(ask):
    assert ask("info")["layers"] == {"relu1": 12, "relu2": 24, "relu3": 32}


def test_what_was_swept(ask):
    found = ask("info")
    assert found["finished"] and found["samples"] == found["of"] == 1347 and found["ranges"] == [[0, 1347]]
    assert found["composite"] == "EpsilonPlusFlat" and found["skipped"] == {}


def test_is_the_store_whole(ask, tmp_path):
    assert ask("verify")["sound"]
    shutil.copytree(ask.store, tmp_path / "store")
    file = next((tmp_path / "store" / "shards").glob("*/L0002.relevance.value.npy"))
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    found = ask("verify", about=tmp_path / "store")
    assert not found["sound"] and any("L0002.relevance.value.npy" in problem for problem in found["problems"])


def test_which_concepts_matter_most_for_4(ask, truth):
    _, relevance, classes = truth
    mean = relevance[classes == 4].mean(0)
    found = ask("concepts", "--layer", LAYER, "--target", 4)["concepts"]
    assert [concept["concept"] for concept in found][:5] == np.argsort(-mean)[:5].tolist()
    assert found[0]["share"] == pytest.approx(mean.max() / np.abs(mean).sum(), rel=1e-4)


def test_which_concepts_made_the_prediction_of_a_sample(ask, truth):
    _, relevance, _ = truth
    found = ask("concepts", "--layer", LAYER, "--sample", 17, "--most", 3)["concepts"]
    shares = relevance[17] / np.abs(relevance[17]).sum()
    assert [concept["concept"] for concept in found] == np.argsort(-shares)[:3].tolist()
    assert [concept["share"] for concept in found] == pytest.approx(np.sort(shares)[::-1][:3], abs=1e-5)


def test_which_concepts_are_dead(ask, truth):
    activation, _, _ = truth
    dead = np.flatnonzero((activation == 0).all(0)).tolist()
    assert ask("concepts", "--layer", LAYER, "--quantity", "activation")["dead"] == dead


def test_which_samples_show_a_concept_best(ask, truth):
    _, relevance, classes = truth
    concept = int(relevance.mean(0).argmax())
    share = relevance[:, concept] / np.abs(relevance).sum(1)
    for options, rows in (([], range(len(classes))), (["--target", 4], np.flatnonzero(classes == 4))):
        found = ask("references", "--layer", LAYER, "--concept", concept, *options)["references"]
        assert [reference["value"] for reference in found] == pytest.approx(np.sort(share[rows])[::-1][:8], abs=1e-5)
        assert share[[reference["sample"] for reference in found]] == pytest.approx(
            [reference["value"] for reference in found], abs=1e-5
        )
        assert all(0 <= place < 8 for reference in found for place in reference["position"])


def test_which_classes_a_concept_serves(ask, truth):
    _, relevance, classes = truth
    concept = int(relevance.mean(0).argmax())
    means = np.array([relevance[classes == digit].mean(0) for digit in range(10)])
    shares = means / np.abs(means).sum(1, keepdims=True)
    portions = np.abs(shares[:, concept]) / np.abs(shares[:, concept]).sum()
    found = ask("classes", "--layer", LAYER, "--concept", concept)
    assert found["serves"][0] == str(portions.argmax()) and found["portion"] <= 1
    assert [part["portion"] for part in found["classes"]] == pytest.approx(np.sort(portions)[::-1], abs=1e-5)


def test_which_patterns_a_layer_has_and_of_which_classes(ask, truth, tmp_path):
    _, _, classes = truth
    options = ["--layer", LAYER, "--min-pattern-size", 15, "--out", tmp_path]
    found, = ask("patterns", *options)["layers"]
    assert found["layer"] == LAYER and len(found["patterns"]) > 3
    assert sum(pattern["rows"] for pattern in found["patterns"]) + found["noise"] == found["rows"] == 1347
    for pattern in found["patterns"]:
        assert sum(pattern["classes"].values()) == pattern["rows"] >= 15
        assert {str(digit) for digit in classes[pattern["samples"]]} <= set(pattern["classes"])
    assert all(Path(picture).is_file() for picture in found["pictures"]) and found["drawn"] <= len(found["patterns"])


def test_is_relevance_conserved(ask):
    found = ask("audit")
    assert found["conserved"] and not found["faults"] and found["accounted"] == pytest.approx(1, abs=.01)


def test_the_page_for_agents_names_every_command_and_only_fields_that_are_there():
    page = (Path(__file__).parents[2] / "docs" / "agents.md").read_text(encoding="utf-8")
    assert len(page.splitlines()) <= 60
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    asked = {}
    for _, command, fields in rows[2:]:
        name = command.split()[1]
        asked.setdefault(name, set()).update(field.strip("` ") for field in fields.split(","))
    assert set(asked) >= set(ANSWERS) - {"merge"}
    for name, fields in asked.items():
        known = {field for kind in schema(name)["$defs"].values() for field in kind["properties"]}
        assert fields <= known, name
