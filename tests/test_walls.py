"""The walls between the wings of crp hold: what ``lint-imports`` allows, and what it finds."""
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


@pytest.fixture
def house(tmp_path):
    """A copy of the package and of its contracts."""
    shutil.copytree(ROOT / "crp", tmp_path / "crp", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(house):
    """Exit code and report."""
    done = subprocess.run([LINT_IMPORTS, "--no-cache"], cwd=house, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_the_walls_stand(house):
    code, report = lint(house)
    assert code == 0, report


@pytest.mark.parametrize("imports, named", [
    (
        {"rows": "from crp.store import ReferenceStore"},
        ["Imports point downwards BROKEN", "crp.model.rows -> crp.store"],
    ),
    (
        {"rows": "from crp.model.layers import get_layer_names", "layers": "from crp.model.rows import share_rows"},
        ["No circles within wings BROKEN", "No cycles are allowed in crp.model.", ".rows", ".layers"],
    ),
], ids=["upwards", "circle"])
def test_an_import_inside_a_function_that_breaks_a_wall_is_found(house, imports, named):
    for module, line in imports.items():
        with open(house / "crp" / "model" / f"{module}.py", "a") as stream:
            stream.write(f"\n\ndef breach():\n    {line}\n")
    code, report = lint(house)
    assert code == 1 and all(text in report for text in named), report
