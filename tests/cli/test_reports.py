"""The command line draws patterns and maps of a store."""
import runpy
import sys

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset
from zennit.composites import EpsilonPlusFlat

from crp.analysis import Patterns
from crp.attribution import CondAttribution
from crp.cli import main
from crp.concepts import ChannelConcept
from crp.store import ReferenceStore
from crp.visualization import FeatureVisualization


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 3)).eval()
    kind = torch.arange(60) % 3
    images = .1 * torch.rand(60, 1, 8, 8) + kind[:, None, None, None] / 3
    path = tmp_path_factory.mktemp("store")
    FeatureVisualization(
        CondAttribution(model), TensorDataset(images, kind), {"0": ChannelConcept(), "1": ChannelConcept()}, path=path
    ).run(EpsilonPlusFlat(), 0, 60)
    return path


@pytest.mark.parametrize("quantity", ["activation", "relevance"])
def test_patterns(store, tmp_path, quantity, capsys):
    main(["patterns", str(store), "--quantity", quantity, "--min-pattern-size", "10", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    read = ReferenceStore(store)
    for key, layer in (("L0000-0", "0"), ("L0001-1", "1")):
        patterns = Patterns.load(read, layer=layer, quantity=quantity)
        assert f"classes of {len(patterns)} of {len(patterns)} patterns" in printed
        assert f"{layer}: {len(patterns)} patterns of 60 rows" in printed and patterns.options["min_pattern_size"] == 10
        assert (tmp_path / f"{key}-{quantity}-patterns.png").is_file()
        assert len(list(tmp_path.glob(f"{key}-{quantity}-pattern-*.png"))) == min(5, len(patterns)) > 0


def test_maps(store, tmp_path, capsys):
    main(["maps", str(store), "--layer", "1", "--method", "pca", "--out", str(tmp_path / "new")])
    pictures = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert pictures == ["L0001-1-relevance-map.png", *(f"relevance-responses-{i}.png" for i in range(3))]
    for name in pictures:
        with Image.open(tmp_path / "new" / name) as image:
            assert len(image.convert("L").getcolors()) > 5
    assert "1: 6 channels" in capsys.readouterr().out


def test_samples_with_several_targets(tmp_path, capsys):
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    dataset = TensorDataset(torch.rand(40, 4), torch.tensor([[1, 1], [0, 1]] * 20))
    FeatureVisualization(
        CondAttribution(model, heatmap_axis=None), dataset, {"1": ChannelConcept()}, path=tmp_path / "store"
    ).run(EpsilonPlusFlat(), 0, 40)
    main(["patterns", str(tmp_path / "store"), "--quantity", "activation", "--out", str(tmp_path / "out")])
    assert " patterns of 40 rows" in capsys.readouterr().out
    main(["maps", str(tmp_path / "store"), "--quantity", "relevance", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        main(["maps", str(tmp_path / "store"), "--quantity", "activation"])
    assert "relevance has a row for each" in capsys.readouterr().err


def test_errors_are_told_and_not_traced(store, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (["patterns", str(tmp_path)], "there is no store"), (["maps", str(store), "--layer", "7"], "no layer '7'"),
        (["patterns", str(store), "--min-samples", "99"], "60 rows are too few for --min-samples 99, --min-pattern-"),
    ):
        monkeypatch.setattr(sys, "argv", ["crp", *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_module("crp", run_name="__main__")  # as python -m crp does
        error = capsys.readouterr().err
        assert end.value.code == 1 and message in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())
