"""Figures of references: pictures, and what a reader needs to read them."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from crp.model.inputs import count_samples, list_tensors
from crp.pictures.image import plot_grid
from crp.pictures.kinds import vis_inputs
from crp.store.references import References

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABEL, _LEAST_WIDTH, _MOST_WIDTH = 1.5, 1.15, 3.2  # inches of a label, and of pictures that have no size themselves


@dataclass(frozen=True)
class ReferenceRow:
    """References of one concept.

    Attributes
    ----------
    label : str
    mode : {"relevance", "activation"}
    references : References
    targets : list of list of str
        The classes of each sample, by name.
    inputs : torch.Tensor, list, tuple or dict
        [N, ...]
    heatmaps : torch.Tensor, tuple, dict or None
        [N, ...]
    """

    label: str
    mode: str
    references: References
    targets: list[list[str]]
    inputs: Any
    heatmaps: Any

    def full_label(self) -> str:
        """The label, and what is to be said of a concept that is nowhere strong."""
        said = said_of_value(self.references.values[0], self.mode)
        return f"{self.label}: {said}" if said else self.label

    def limits(self, common_scale: bool) -> list[float]:
        """The largest absolute relevance of each heatmap, or of all."""
        heatmaps = list_tensors(self.heatmaps)
        count = count_samples(self.heatmaps)
        largest = [max(abs(float(part[i].abs().max())) for part in heatmaps) for i in range(count)]
        return [max(largest)] * count if common_scale else largest


def said_of_value(best: float, mode: str) -> str:
    """What is to be said of a concept whose largest value is this."""
    if best > 0:
        return ""
    return "never active" if mode == "activation" and best == 0 else f"no positive {mode}"


def draw_references(
    rows: list[ReferenceRow], layer: str, plot_fn: Callable, rf: bool, common_scale: bool, is_share: bool
) -> Figure:
    """Draw references of concepts of a layer.

    Parameters
    ----------
    rows : list of ReferenceRow
    layer : str
    plot_fn : callable
        ``(inputs, heatmaps, rf) -> pictures``; inputs without heatmaps have the pictures of their kind.
    rf : bool
    common_scale : bool
        Whether ``plot_fn`` gives colours one meaning in all heatmaps of a row.
    is_share : bool
        Whether values are shares of the layer.

    Returns
    -------
    matplotlib.figure.Figure
    """
    pictures, captions = {}, {}
    for row in rows:
        label = row.full_label()
        has_heatmaps = row.heatmaps is not None
        pictures[label] = plot_fn(row.inputs, row.heatmaps, rf) if has_heatmaps else vis_inputs(row.inputs)
        values = [f"{value:.1%}" if is_share else f"{value:.3g}" for value in row.references.values.tolist()]
        if has_heatmaps:
            values = [f"{value} · ±{limit:.2g}" for value, limit in zip(values, row.limits(common_scale))]
        samples = map(_sample, row.references.samples.tolist(), row.targets)
        captions[label] = [f"{sample}\n{value}" for sample, value in zip(samples, values)]
    shown = [part for found in pictures.values() for part in (found if isinstance(found, tuple) else (found,))]
    width = max(_inches(picture) for part in shown for picture in part)
    columns = max(map(len, shown))
    return plot_grid(
        pictures, figsize=(_LABEL + width * columns, math.inf), captions=captions,
        title=_title(layer, rows[0], common_scale, is_share),
    )


def _sample(sample: int, targets: list[str]) -> str:
    named = ", ".join(targets[:3]) + ", …" * (len(targets) > 3)
    return f"#{sample} · target{'s' * (len(targets) > 1)} {named}" if targets else f"#{sample}"


def _title(layer: str, row: ReferenceRow, common_scale: bool, is_share: bool) -> str:
    name = {"relevance": "most relevant (RelMax)", "activation": "most active (ActMax)"}[row.mode]
    value = f"share of the layer's {row.mode}" if is_share else row.mode
    scale = f"largest |relevance| of {'the row' if common_scale else 'the heatmap'}"
    return (
        f"layer {layer}: samples at which concepts are {name}\n"
        f"#sample · target; {value}{'' if row.heatmaps is None else f' · ±{scale}'}"
    )


def _inches(picture: Image.Image) -> float:
    """The width of a picture: what its letters ask for, or one that makes images a little more than an inch high."""
    if "dpi" in picture.info:
        return float(picture.width / picture.info["dpi"][0])
    return min(max(_LEAST_WIDTH, _LEAST_WIDTH * picture.width / picture.height), _MOST_WIDTH)
