"""What a concept stands for in one sentence, made of numbers."""
from __future__ import annotations

import torch

from crp.analysis import ClassShares
from crp.pictures.words import in_words

MIDDLE = 0.08  # of the size of the image, to both sides of its centre
SPREAD = 0.15


def describe(shares: ClassShares, concept: int, heatmaps: torch.Tensor) -> str:
    """The classes that a concept serves and its place: ``in 4, 7 and 9: 71% of its relevance; upper right``.

    Parameters
    ----------
    shares : ClassShares
        Of relevance.
    concept : int
    heatmaps : torch.Tensor
        [N, H, W], of the concept in its reference samples.
    """
    classes, portion = shares.served(concept)
    if len(classes) == 0:
        return "dead"
    return f"in {in_words(classes)}: {portion:.0%} of its relevance; {place_of(heatmaps)}"


def place_of(heatmaps: torch.Tensor) -> str:
    """Where what is relevant in several images is, such as ``upper right``, if it is at one place.

    Parameters
    ----------
    heatmaps : torch.Tensor
        [N, H, W]
    """
    amounts = heatmaps.double().clamp(min=0)
    amounts = amounts[amounts.sum((1, 2)) > 0]
    if len(amounts) == 0:
        return "nowhere"
    amounts = amounts / amounts.sum((1, 2), keepdim=True)
    down, right = (
        (amounts.sum(other) * torch.linspace(-0.5, 0.5, amounts.shape[axis], dtype=torch.float64)).sum(1)
        for axis, other in ((1, 2), (2, 1))
    )
    if max(down.std(correction=0), right.std(correction=0)) > SPREAD:
        return "at various places"
    words = _side(float(down.mean()), "upper", "lower"), _side(float(right.mean()), "left", "right")
    return " ".join(filter(None, words)) or "in the middle"


def _side(offset: float, before: str, after: str) -> str:
    return before if offset < -MIDDLE else after if offset > MIDDLE else ""
