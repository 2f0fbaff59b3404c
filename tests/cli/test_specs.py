"""Files and modules that say what to sweep."""
import sys

import pytest
import torch

from crp.cli import main
from crp.cli.specs import SpecError, load_spec


@pytest.fixture(autouse=True)
def same_path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


def written(folder, name, text="def sweep():\n    return 'made'\n"):
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize("name", [
    "sweep.py", "torch.py", "crp.py", "queue.py", "numpy.py", "zennit.py", "my sweep.py", "a.b.py", "1-größe.py",
])
def test_a_file_replaces_no_module(tmp_path, name):
    before = dict(sys.modules)
    function = load_spec(written(tmp_path, name))
    assert function() == "made" and function.__module__ not in before
    assert all(sys.modules[name] is module for name, module in before.items())


def test_a_file_imports_those_beside_it_unless_others_have_their_name(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "folder", "beside_a_spec.py", "SIZE = 3\n")
    written(tmp_path / "folder", "colorsys.py", "raise AssertionError\n")  # of the standard library
    written(tmp_path / "folder", "spec.py", "import colorsys\ndef sweep():\n    import beside_a_spec\n"
            "    return beside_a_spec.SIZE, colorsys.rgb_to_hsv\n")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert load_spec("folder/spec.py")()[0] == 3


def test_a_module_in_the_current_folder_is_found_after_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "module_of_a_spec.py")
    written(tmp_path, "colorsys.py")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert load_spec("module_of_a_spec:sweep")() == "made"
    with pytest.raises(ValueError, match="colorsys has no function 'sweep'"):
        load_spec("colorsys:sweep")
    assert load_spec("torch:rand") is torch.rand


@pytest.mark.parametrize("name", ["nothing", "nothing:sweep", "torch.nothing:sweep"])
def test_what_names_no_module(name):
    with pytest.raises(ValueError, match=f"'{name}' is no file.py, file.py:function or module:function"):
        load_spec(name)


@pytest.mark.parametrize("text, told", [
    ("import nothing_of_this_name\n", ["line 1, in <module>", "ModuleNotFoundError: No module named 'nothing_of"]),
    ("def sweep(:\n", ["line 1", "SyntaxError"]),
    ("def sweep():\n    return {}['model']\n", ["line 2, in sweep", "return {}['model']", "KeyError: 'model'"]),
])
def test_errors_in_a_file_come_with_their_traceback(tmp_path, text, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", written(tmp_path, "spec.py", text)])
    error = capsys.readouterr().err
    assert ended.value.code == 1 and error.startswith(f"crp run: {tmp_path}/spec.py fails:\n")
    assert all(part in error for part in told) and "crp/cli" not in error and "importlib" not in error


def test_errors_in_a_module_come_with_their_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "failing_module.py", "import nothing_of_this_name\n")
    with pytest.raises(SpecError, match="failing_module fails:\n(.|\n)*failing_module.py(.|\n)*'nothing_of_this_name'"):
        load_spec("failing_module:sweep")


def test_help_says_that_the_file_is_executed(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert "is executed, also with --dry-run" in " ".join(capsys.readouterr().out.split())
