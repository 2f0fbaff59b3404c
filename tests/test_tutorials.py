"""The tutorials run from start to end, and the saved ones show their pictures."""
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIALS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.ipynb"))
FEWEST_PICTURES = {
    "attributions": 10, "can_i_trust_it": 5, "explorer": 0, "feature_visualization": 10, "is_my_lrp_right": 3,
    "language_model": 3, "large_runs": 2, "maps": 6, "neurons": 6, "neurons_text": 3, "patterns": 7, "sentences": 2,
    "sound": 4, "vision_transformer": 8,
}


def pictures(notebook):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_tutorials_exist():
    assert {path.stem for path in TUTORIALS} >= set(FEWEST_PICTURES)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_saved_tutorial_shows_pictures_and_no_errors(path):
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert pictures(notebook) >= FEWEST_PICTURES[path.stem]
    assert not [output for output in outputs if output.output_type == "error"]


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs(path, tmp_path, monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel then shows figures in the notebook
    saved = nbformat.read(path, as_version=4)
    executed = NotebookClient(
        nbformat.read(path, as_version=4), timeout=600, kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    assert pictures(executed) == pictures(saved)
