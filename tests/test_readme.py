"""The README's quickstarts run, and what it promises of commands and pictures is there."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot as plt

from crp.demo.digits import digit_network
from crp.store import ReferenceStore, verify

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


def marked(name):
    return re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)[1]


@pytest.mark.slow
def test_the_script_for_clusters_as_plain_processes(tmp_path):
    (tmp_path / "sweep.py").write_text(marked("sweep.py"))
    (tmp_path / "job.sh").write_text(marked("slurm"))
    torch.save(digit_network().state_dict(), tmp_path / "digits.pt")
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
