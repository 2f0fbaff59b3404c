"""The examples of README and documentation run, and what they promise of names, commands and pictures is there."""
import copy
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot as plt

from crp.demo import digits
from crp.store import ReferenceStore, verify

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
WRITTEN = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PUBLIC = [
    "crp.analysis", "crp.attribution", "crp.attribution.baselines", "crp.cache", "crp.composites", "crp.concepts",
    "crp.demo.digits", "crp.explorer", "crp.graph", "crp.helper", "crp.hooks", "crp.image", "crp.neurons", "crp.rules",
    "crp.store", "crp.sweeps", "crp.text", "crp.trust", "crp.truth", "crp.visualization",
]
TABLES = [
    ("speed", "benchmarks"), ("any_model", "architectures"), ("any_model", "faithfulness"),
    ("any_model", "words of sentences"), ("any_model", "operations"), ("neurons", "planted units"),
    ("neurons", "large layers"), ("neurons", "effects"), ("neurons", "ablation"), ("trust", "report"),
    ("truth", "localisation"), ("truth", "references"), ("truth", "units"), ("truth", "directions"),
    ("truth", "shortcut"), ("explorer", "numbers"),
]

pytestmark = pytest.mark.usefixtures("quick")


def blocks_of(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def prose_of(path):
    """A page without its code."""
    return re.sub(r"^```.*?^```|``?[^`\n]+``?", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def places_of(path):
    """The fragments of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def promised_by_readme(names):
    assert names["heatmaps"].shape == (5, 32, 32)
    assert set(names["references"]) == set(names["top"].indices[:3].tolist())
    assert len(names["samples"]) == 100
    assert names["nodes"][0] == ("relu3", int(names["top"].indices[0]))


def promised_by_attributions(names):
    assert names["nodes"][0] == ("relu3", int(names["strongest"][0]))


def promised_by_references(names):
    assert len(names["samples"]) == 100


def promised_by_analysis(names):
    assert len(names["patterns"]) > 3 and names["pattern"].shape == (1,)
    assert names["profiles"].groups == [str(digit) for digit in range(10)]


def promised_by_any_model(names):
    assert names["audit"].accounted > 0.99 and not names["audit"].faults
    assert names["share_of_heads"].shape == (2, 4)


PROMISES = {
    "README": promised_by_readme, "attributions": promised_by_attributions, "references": promised_by_references,
    "analysis": promised_by_analysis, "any_model": promised_by_any_model,
}


@pytest.fixture(scope="module")
def trained_network():
    return digits.train_digit_network(digits.digit_datasets()[0], epochs=5)  # enough for what the pages promise


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)], ids=lambda page: page.stem)
def test_examples_run(page, trained_network, tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "train_digit_network", lambda *_, **__: copy.deepcopy(trained_network))
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    for number, block in enumerate(blocks_of(page), 1):
        exec(compile(block, f"{page.name}, example {number}", "exec"), names)
    plt.close("all")
    PROMISES.get(page.stem, lambda names: None)(names)


def test_pages_that_promise_something_have_examples():
    assert all(blocks_of(page) for page in PAGES if page.stem in PROMISES)
    assert {page.stem for page in PAGES} >= set(PROMISES)


def test_pictures_exist_and_are_small():
    pictures = {
        (page.parent / picture).resolve()
        for page in PAGES for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", prose_of(page))
    }
    assert pictures >= {picture.resolve() for picture in (ROOT / "images").glob("*.png")}
    for picture in pictures:
        assert picture.stat().st_size < 300_000, picture


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)]+)\)", prose_of(page)):
        path, _, place = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        file = ROOT / path if path.startswith("tutorials/") else file  # the build copies them beside the pages
        assert file.exists(), target
        assert not place or file.suffix != ".md" or place in places_of(file), target


@pytest.mark.parametrize("page, name", TABLES)
def test_benchmarks_find_the_places_of_their_tables(page, name):
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert len(re.findall(rf"<!-- {name} -->\n\|.*?<!-- end of {name} -->", text, re.DOTALL)) == 1


def public_names(module):
    own = [
        name for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]
    of_others = getattr(vars(module).get("__getattr__"), "places", {})  # those that zennit-crp's modules had
    return [name for name in getattr(module, "__all__", own) if name not in of_others]


def documented_names():
    text = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.rst"))
    return set(re.findall(r"^(?:   ~|\.\. py:(?:class|data|function):: )(crp(?:\.\w+)+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_in_the_reference(name):
    names = {f"{name}.{public}" for public in public_names(importlib.import_module(name))}
    assert names and not names - documented_names()


def test_names_in_the_reference_exist():
    for name in documented_names():
        module, _, public = name.rpartition(".")
        assert hasattr(importlib.import_module(module), public), name


def test_broken_links_in_the_built_pages_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there">1</a><a href="b.html#gone">2</a><a href="c.html">3</a><a href="https://pytorch.org">4</a>'
        '<script src="https://cdn.org/x.js"></script><img src="data:image/png;base64,">'
    )
    (tmp_path / "b.html").write_text('<h1 id="there">b</h1><a href="#there">up</a>')
    run = subprocess.run([sys.executable, DOCS / "check_links.py", tmp_path], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stdout.splitlines() == [
        "a.html: b.html#gone: no such place", "a.html: c.html: no such file",
        "a.html: https://cdn.org/x.js: needs a network",
    ]


def files_named(cell):
    """The files of the package that a cell names; after a path, plain names are of the same folder."""
    folder = None
    for name in re.findall(r"`([\w/]+\.py|\w+/)`", cell):
        path = ROOT / "crp" / name if "/" in name else folder / name
        folder = path if name.endswith("/") else path.parent
        yield from path.glob("*.py") if name.endswith("/") else [path]


def test_functions_on_the_ways_through_the_house_are_in_the_files_named():
    steps = [line.split("|")[2:4] for line in (DOCS / "house.md").read_text(encoding="utf-8").splitlines()
             if re.fullmatch(r"\|[^|]+\|[^|]*`[^|]+\|[^|]*`[^|]+\|", line)]
    checked = 0
    for files, functions in steps:
        source = "".join(path.read_text(encoding="utf-8") for path in files_named(files))
        for part in re.findall(r"\w+", " ".join(re.findall(r"`([\w.]+)`", functions))) if source else []:
            assert re.search(rf"(def|class) {part}\b", source), f"{part} is not in {files}"
            checked += 1
    assert checked > 50


def marked(name):
    text = (DOCS / "large_runs.md").read_text(encoding="utf-8")
    return re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", text, re.DOTALL)[1]


@pytest.mark.slow
def test_the_script_for_clusters_as_plain_processes(tmp_path):
    (tmp_path / "sweep.py").write_text(marked("sweep.py"))
    (tmp_path / "job.sh").write_text(marked("slurm"))
    torch.save(digits.digit_network().state_dict(), tmp_path / "digits.pt")
    (tmp_path / "crp").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m crp "$@"\n')
    (tmp_path / "crp").chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_COUNT": "3",
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
    }
    jobs = [
        subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env={**environment, "SLURM_ARRAY_TASK_ID": str(task)})
        for task in range(3)
    ]
    assert [job.wait() for job in jobs] == [0, 0, 0]
    subprocess.run(["crp", "merge", "digits-store"], cwd=tmp_path, env=environment, check=True)
    assert ReferenceStore(tmp_path / "digits-store").ranges == [[0, 1347]]
    assert verify(tmp_path / "digits-store") == []
