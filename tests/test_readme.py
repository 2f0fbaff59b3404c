"""The README's quickstarts run, and what it promises of commands and pictures is there."""
import re
from pathlib import Path

from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_quickstarts_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 8
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    plt.close("all")
    assert names["heatmaps"].shape == (5, 32, 32)
    assert set(names["references"]) == set(names["top"].indices[:3].tolist())
    assert len(names["samples"]) == 100
    assert len(names["patterns"]) > 3 and names["pattern"].shape == (1,)
    assert names["profiles"].groups == [str(digit) for digit in range(10)]
    assert names["audit"].accounted > 0.99 and not names["audit"].faults
    assert names["nodes"][0] == ("relu3", int(names["top"].indices[0]))


def test_pictures_exist_and_are_small():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    assert len(pictures) == 7
    for picture in pictures:
        assert (ROOT / picture).stat().st_size < 300_000


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
