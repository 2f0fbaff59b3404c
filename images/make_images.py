"""Remakes the README's pictures: ``make images``."""
from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path

import matplotlib
import torch
import torchvision
from zennit.composites import EpsilonPlusFlat

matplotlib.use("Agg")

from crp.attribution import CondAttribution  # noqa: E402
from crp.attribution.audit import Audit  # noqa: E402
from crp.demo.digits import digit_datasets, train_digit_network  # noqa: E402
from crp.demo.story import Story  # noqa: E402

FOLDER = Path(__file__).parent


def main() -> None:
    """Train the demo's network and draw what the README shows."""
    training, held_out = digit_datasets()
    with tempfile.TemporaryDirectory() as store:
        story = Story(train_digit_network(training), training, held_out, Path(store))
        story.sweep()
        concepts, shares = story.clear_concepts(count=3)
        figures = {
            "story": story.overview(concepts, shares),
            "predictions": story.concepts_of_predictions((4, 7), count=5),
            "concept": story.portrait(concepts[1], shares[1]),
            "graph": story.graph(concepts[1]),
            "maps": story.topographic_maps(),
        }
        found = story.references.find_patterns("relu3", "relevance", min_pattern_size=15)
        found.plot_exemplars(training, range(4), n=6).savefig(FOLDER / "patterns.png", dpi=75)
        for name, (_, figure) in figures.items():
            figure.savefig(FOLDER / f"{name}.png", dpi=90)
    leaking_audit().plot((9, 3.2)).savefig(FOLDER / "audit.png", dpi=90)
    (FOLDER / "text.png").write_bytes(picture_of("language_model", 0))
    (FOLDER / "trust.png").write_bytes(picture_of("can_i_trust_it", 3))


def picture_of(tutorial: str, number: int) -> bytes:
    """A picture that a tutorial shows, counted from 0, as PNG."""
    notebook = json.loads((FOLDER.parent / "tutorials" / f"{tutorial}.ipynb").read_text(encoding="utf-8"))
    outputs = (output for cell in notebook["cells"] for output in cell.get("outputs", []))
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return base64.b64decode(pictures[number])


def leaking_audit() -> Audit:
    """An audit of a ResNet-18 with random weights, with rules for its modules only."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18().eval()
    return CondAttribution(model, functional=False).audit(torch.randn(2, 3, 64, 64), EpsilonPlusFlat())


main()
