"""zennit-crp installs into the same folder: a mixture of both says so instead of failing somewhere inside."""
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import crp

IMPORTS = ["crp", "crp.attribution", "crp.visualization", "crp.concepts"]


@pytest.fixture
def installed(tmp_path):
    return shutil.copytree(Path(crp.__file__).parent, tmp_path / "crp", ignore=shutil.ignore_patterns("__pycache__"))


def error_of(folder, name):
    code = f"import sys; sys.path.insert(0, {str(folder.parent)!r}); import {name}"
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=folder.parent, env={})
    return run.stderr


@pytest.mark.parametrize("name", IMPORTS)
def test_zennit_crp_installed_over_it(installed, name):
    for module in ("attribution", "concepts", "visualization", "image", "helper", "__init__"):
        (installed / f"{module}.py").write_text("# zennit-crp's\n")
    if name == "crp":
        assert error_of(installed, name) == ""  # it is zennit-crp's own file
    else:
        assert "ImportError" in error_of(installed, name) and "are installed together" in error_of(installed, name)


@pytest.mark.parametrize("name", IMPORTS[1:])
def test_zennit_crp_uninstalled_from_it(installed, name):
    for module in ("image", "helper", "__init__", "cache", "graph", "hooks"):
        (installed / f"{module}.py").unlink()
    assert "pip uninstall both, then install crp-concepts again" in error_of(installed, name)


@pytest.mark.parametrize("name", IMPORTS)
def test_it_installed_over_zennit_crp(installed, name):
    (installed / "attribution.py").write_text("# zennit-crp's\n")
    assert "are installed together" in error_of(installed, name)


def test_a_sound_installation(installed):
    assert error_of(installed, "crp") == error_of(installed, "crp.model") == ""
