"""Reference samples as pictures, cropped to what a concept sees, and their embeddings."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from zennit.core import Composite

from crp.pictures.heatmaps import get_crop_range, in_pairs, smooth
from crp.pictures.image import imgify
from crp.pictures.kinds import is_image, vis_inputs
from crp.visualization.feature_visualization import FeatureVisualization

EmbedImages: TypeAlias = Callable[[list[Image.Image]], Any]
"""Pictures [n] -> [n, d]."""
Crops: TypeAlias = dict[int, list[Image.Image]]
"""Concept -> its reference samples as pictures."""
_THRESHOLD = .1


def reference_crops(
    fv: FeatureVisualization, layer: str, concepts: Sequence[int], references: int, composite: Composite,
    mode: str = "relevance",
) -> Crops:
    """The reference samples of concepts, cropped to the receptive field of their strongest neuron.

    Inputs that are no images are shown whole, as ``get_max_reference`` shows them.
    """
    return fv.get_max_reference(list(concepts), layer, mode, (0, references), composite, rf=True, plot_fn=cropped)


def cropped(inputs: Any, heatmaps: Any, rf: bool = True) -> list[Image.Image]:
    """Images cut to where relevance is, above a tenth of its largest value after smoothing; a ``plot_fn``."""
    if isinstance(inputs, Mapping) or not is_image(inputs[0]):
        return vis_inputs(inputs)
    pictures = []
    for image, heatmap in in_pairs(inputs, heatmaps):
        width = int(image.shape[-1]) // 24 * 2 + 1  # a twelfth, odd
        top, bottom, left, right = get_crop_range(smooth(heatmap, width), _THRESHOLD)
        pictures.append(imgify(image, cmap="gray").convert("RGB").crop((left, top, right, bottom)))
    return pictures


def embedded(embed: Callable[[Any], Any], items: Sequence[Any], what: str) -> np.ndarray:
    """[n, d], what a function of the user's gives for n items.

    Raises
    ------
    ValueError
        If it gives something else.
    """
    found = embed(list(items))
    array = np.asarray(found.detach().cpu().double() if hasattr(found, "detach") else found, np.float64)
    if array.ndim != 2 or len(array) != len(items) or not np.isfinite(array).all():
        raise ValueError(f"{what} gives finite numbers [{len(items)}, d] for {len(items)} items, not {array.shape}")
    return array


def embedded_crops(crops: Mapping[int, list[Image.Image]], embed_images: EmbedImages) -> np.ndarray:
    """[concepts, references, d], embeddings of crops; all concepts have as many."""
    count = min(map(len, crops.values()))
    pictures = [picture for own in crops.values() for picture in own[:count]]
    return embedded(embed_images, pictures, "embed_images").reshape(len(crops), count, -1)
