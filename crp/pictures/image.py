"""Pictures of images and their heatmaps, and grids of pictures."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageChops
from zennit.image import gridify, palette

from crp.pictures.heatmaps import check_threshold, get_crop_range, in_pairs, smooth
from crp.pictures.squares import padded

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def imgify(
    image: Any,
    cmap: str = "bwr",
    vmin: float | None = None,
    vmax: float | None = None,
    symmetric: bool = False,
    level: float = 1.0,
    grid: bool | tuple[int, int] = False,
    gridfill: int | None = None,
    resize: int | None = None,
    padding: bool = False,
) -> Image.Image:
    """Turn an array into a picture.

    Parameters
    ----------
    image : array, tensor or PIL.Image.Image
        [H, W], or [C, H, W] or [H, W, C] with 1 or 3 channels; with ``grid``, a batch of those.
    cmap : str, default "bwr"
        A colour map of zennit, for one channel.
    vmin, vmax : float, optional
        Values of the ends of the colour map; by default the smallest and largest.
    symmetric : bool, default False
        Put zero at the centre of the colour map.
    level : float, default 1.0
        Steepness of the colour map.
    grid : bool or (rows, columns), default False
        Arrange a batch in a grid, each image with its own limits.
    gridfill : int, optional
        Grey value of empty places of the grid.
    resize : int, optional
        Length of the longer side in pixels.
    padding : bool, default False
        Pad to a square.

    Returns
    -------
    PIL.Image.Image
    """
    is_picture = isinstance(image, Image.Image)
    picture = image if is_picture else _array_to_image(image, cmap, vmin, vmax, symmetric, level, grid, gridfill)
    if resize is not None:
        scale = resize / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.NEAREST)
    return padded(picture) if padding else picture


def _array_to_image(
    image: Any, cmap: str, vmin: float | None, vmax: float | None, symmetric: bool, level: float,
    grid: bool | tuple[int, int], gridfill: int | None,
) -> Image.Image:
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = image.float() if image.is_floating_point() else image
    array = np.asarray(image)
    array = _channels_last(array, batched=bool(grid))
    if array.dtype != np.uint8:
        array = _to_bytes(array.astype(float), vmin, vmax, symmetric, axes=(1, 2, 3) if grid else (0, 1, 2))
    if grid:
        array = gridify(array, None if isinstance(grid, bool) else grid, gridfill)
    if array.shape[2] == 3:
        return Image.fromarray(array)
    colours = np.asarray(palette(cmap, level), dtype=np.uint8).reshape(256, 3)
    picture = Image.fromarray(array[:, :, 0])
    picture.putpalette(colours.tobytes())
    return picture


def _channels_last(array: np.ndarray, batched: bool) -> np.ndarray:
    axes = array.ndim - batched
    if axes == 2:
        return array[..., None]
    if axes == 3 and array.shape[-3] in (1, 3) and array.shape[-1] not in (1, 3):
        return np.moveaxis(array, -3, -1)
    if axes == 3 and array.shape[-1] in (1, 3):
        # a tensor [3, H, 3] or [1, H, 1] is read as channels first, as torch has it
        return np.moveaxis(array, -3, -1) if array.shape[-3] in (1, 3) else array
    raise ValueError(
        f"an image is [H, W], or [C, H, W] or [H, W, C] with 1 or 3 channels{', in a batch' * batched}; "
        f"got the shape {array.shape}. For other inputs there are crp.image.vis_signal and vis_features, and "
        "crp.text.vis_tokens"
    )


def _to_bytes(
    array: np.ndarray, vmin: float | None, vmax: float | None, symmetric: bool, axes: tuple[int, ...]
) -> np.ndarray:
    low, high = array.min(axes, keepdims=True), array.max(axes, keepdims=True)
    if symmetric:
        high = np.maximum(np.abs(low), np.abs(high))
        low = -high
    low = low if vmin is None else np.asarray(vmin, dtype=float)
    high = high if vmax is None else np.asarray(vmax, dtype=float)
    constant = 0.5 if symmetric else 0.0
    span = np.where(high > low, high - low, 1)
    scaled = np.where(high > low, (array - low) / span, constant)
    return (scaled * 255).clip(0, 255).round().astype(np.uint8)


def _alike(parts: list[list[Image.Image]], padding: bool) -> list[list[Image.Image]]:
    """Pictures of a row as a grid shows them: padded to squares if that is wished for and their sizes differ."""
    sizes = {picture.size for part in parts for picture in part}
    if padding and len(sizes) > 1:
        parts = [[padded(picture) for picture in part] for part in parts]
    return _without_padding(parts)


def _without_padding(parts: list[list[Image.Image]]) -> list[list[Image.Image]]:
    """Pictures of a row without the white above and below, or beside them, that made squares of all of them."""
    pictures = [picture for part in parts for picture in part]
    boxes = [(picture.size, ImageChops.invert(picture.convert("RGB")).getbbox()) for picture in pictures]
    margins = [(min(x1, w - x2) / w, min(y1, h - y2) / h) for (w, h), (x1, y1, x2, y2) in (
        (size, box) for size, box in boxes if box is not None
    )]
    beside, above = map(min, zip(*margins)) if margins else (0., 0.)
    is_padded = all(width == height for (width, height), _ in boxes) and (beside == 0) != (above == 0)
    return [[_cut(picture, beside, above) for picture in part] for part in parts] if is_padded else parts


def _cut(picture: Image.Image, beside: float, above: float) -> Image.Image:
    x, y = int(beside * picture.width), int(above * picture.height)
    return picture.crop((x, y, picture.width - x, picture.height - y))


def vis_opaque_img(
    data_batch: torch.Tensor, heatmaps: torch.Tensor, rf: bool = False, alpha: float = 0.3, vis_th: float = 0.2,
    crop_th: float = 0.1, kernel_size: int = 19,
) -> list[Image.Image]:
    """Show the parts of images with strong relevance and darken the rest.

    Parameters
    ----------
    data_batch : torch.Tensor
        [N, C, H, W], 1 or 3 channels.
    heatmaps : torch.Tensor
        [N, H, W]
    rf : bool, default False
        Crop to the relevant part.
    alpha : float, default 0.3
        Brightness of the rest, from 0 to 1.
    vis_th : float, default 0.2
        Smoothed relevance above this share of its maximum is shown.
    crop_th : float, default 0.1
        Smoothed relevance above this share of its maximum is inside the crop.
    kernel_size : int, default 19
        Width of the smoothing in pixels, an odd number.

    Returns
    -------
    list of PIL.Image.Image

    Raises
    ------
    ValueError
        If images and heatmaps differ in number or size, ``alpha`` is not from 0 to 1, a threshold is not from 0 to
        below 1, or ``kernel_size`` is not odd.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is from 0 (black) to 1 (as bright as the rest), not {alpha}")
    check_threshold("vis_th", vis_th)
    check_threshold("crop_th", crop_th)
    pictures = []
    for image, heatmap in in_pairs(data_batch, heatmaps):
        smoothed = smooth(heatmap, kernel_size)
        picture = np.asarray(imgify(image, cmap="gray").convert("RGB"), dtype=float)
        shown = (smoothed > vis_th).cpu().numpy()[..., None]
        picture = np.where(shown, picture, picture * alpha).astype(np.uint8)
        if rf:
            row1, row2, col1, col2 = get_crop_range(smoothed, crop_th)
            picture = picture[row1:row2, col1:col2]
        pictures.append(imgify(Image.fromarray(picture), padding=True))
    return pictures


def vis_img_heatmap(
    data_batch: torch.Tensor, heatmaps: torch.Tensor, rf: bool = False, crop_th: float = 0.1, kernel_size: int = 19,
    cmap: str = "bwr", vmin: float | None = None, vmax: float | None = None, symmetric: bool = True, *,
    common_scale: bool = False,
) -> tuple[list[Image.Image], list[Image.Image]]:
    """Show images and their heatmaps.

    Parameters
    ----------
    data_batch : torch.Tensor
        [N, C, H, W], 1 or 3 channels.
    heatmaps : torch.Tensor
        [N, H, W]
    rf : bool, default False
        Crop both to the relevant part.
    crop_th : float, default 0.1
        Smoothed relevance above this share of its maximum is inside the crop.
    kernel_size : int, default 19
        Width of the smoothing in pixels, an odd number.
    cmap, vmin, vmax, symmetric
        Colours of the heatmaps, as for :func:`imgify`.
    common_scale : bool, default False
        Give colours one meaning in all heatmaps: where ``vmin`` and ``vmax`` are not given, they are those of all.

    Returns
    -------
    images, heatmaps : list of PIL.Image.Image

    Raises
    ------
    ValueError
        If images and heatmaps differ in number or size, ``crop_th`` is not from 0 to below 1, or ``kernel_size`` is
        not odd.
    """
    check_threshold("crop_th", crop_th)
    if common_scale:
        vmin, vmax = _common_limits(heatmaps, vmin, vmax, symmetric)
    images, maps = [], []
    for image, heatmap in in_pairs(data_batch, heatmaps):
        if rf:
            row1, row2, col1, col2 = get_crop_range(smooth(heatmap, kernel_size), crop_th)
            image, heatmap = image[..., row1:row2, col1:col2], heatmap[row1:row2, col1:col2]
        images.append(imgify(image, cmap="gray", padding=True))
        maps.append(imgify(heatmap, cmap=cmap, vmin=vmin, vmax=vmax, symmetric=symmetric, padding=True))
    return images, maps


def _common_limits(
    heatmaps: torch.Tensor, vmin: float | None, vmax: float | None, symmetric: bool
) -> tuple[float | None, float | None]:
    low, high = min(float(heatmap.min()) for heatmap in heatmaps), max(float(heatmap.max()) for heatmap in heatmaps)
    if symmetric:
        high = max(-low, high)
        low = -high
    return low if vmin is None else vmin, high if vmax is None else vmax


def upsample_patches(
    values: torch.Tensor, image_size: tuple[int, int], patch_size: int | tuple[int, int], mode: str = "nearest"
) -> torch.Tensor:
    """Spread values of the patches of a vision transformer over the image, as heatmaps for ``vis_img_heatmap``.

    Parameters
    ----------
    values : torch.Tensor
        [N, T], row by row from the top left, such as relevance [N, T, C] of a layer summed over the features. Tokens
        before those of the patches (class token, registers) are left out.
    image_size : (int, int)
        Height and width of the images.
    patch_size : int or (int, int)
        Height and width of a patch.
    mode : str, default "nearest"
        How to interpolate, as for ``torch.nn.functional.interpolate``: "nearest" shows the patches, "bilinear" blurs
        their edges.

    Returns
    -------
    torch.Tensor
        [N, H, W]

    Raises
    ------
    ValueError
        If the image is not made of such patches, or there are fewer tokens than patches.
    """
    patch_size = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    rows, columns = (side // patch for side, patch in zip(image_size, patch_size))
    if any(side % patch for side, patch in zip(image_size, patch_size)):
        raise ValueError(f"an image of {tuple(image_size)} is not made of patches of {tuple(patch_size)}")
    if values.ndim != 2 or values.shape[1] < rows * columns:
        raise ValueError(
            f"values is [N, tokens], with {rows} x {columns} = {rows * columns} patches at the end, not "
            f"{tuple(values.shape)}"
        )
    grid = values[:, values.shape[1] - rows * columns:].reshape(-1, 1, rows, columns)
    return torch.nn.functional.interpolate(grid, tuple(image_size), mode=mode)[:, 0]


def plot_grid(
    ref_c: Mapping, cmap_dim: int | None = 1, cmap: str = "bwr", vmin: float | None = None, vmax: float | None = None,
    symmetric: bool = True, resize: int | None = None, padding: bool = True, figsize: tuple[float, float] = (6, 6), *,
    captions: Mapping[Any, Sequence[str]] | None = None, title: str = "",
) -> Figure:
    """Show references in a grid: a row per concept, or two where there are images and heatmaps.

    Parameters
    ----------
    ref_c : dict
        Concept id -> list of pictures or tensors, or a tuple of such lists; what ``get_max_reference`` returns.
    cmap_dim : int or None, default 1
        Which item of the tuple holds heatmaps, to be coloured if they are tensors; None for none.
    cmap, vmin, vmax, symmetric, resize, padding
        As for :func:`imgify`; pictures of a row that have one size need no padding, and white that all of them were
        padded with before is left out.
    figsize : tuple of float, default (6, 6)
        In inches; flat grids are lower, and grids of so many rows that none would be half an inch high are higher.
    captions : dict, optional
        Concept id -> a text for each of its pictures, which stands above it; others have none.
    title : str, default ""

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is nothing to show, or not one caption for each picture.
    """
    from crp.pictures.grids import GridRow, draw_grid

    if cmap_dim not in (None, 0, 1):
        raise ValueError(f"cmap_dim is None, 0 or 1, not {cmap_dim!r}")

    def pictures(items: Iterable, position: int) -> list[Image.Image]:
        colours: dict[str, Any] = {"cmap": "gray"}
        if position == cmap_dim:
            colours = {"cmap": cmap, "vmin": vmin, "vmax": vmax, "symmetric": symmetric}
        return [imgify(item, **colours, resize=resize) for item in items]

    captions = {} if captions is None else captions
    if unknown := [concept for concept in captions if concept not in ref_c]:
        raise ValueError(f"there are captions of {unknown[0]!r}, of which there are no pictures")
    rows = []
    for concept, references in ref_c.items():
        parts = references if isinstance(references, tuple) else (references,)
        shown = _alike([pictures(items, position) for position, items in enumerate(parts)], padding)
        texts = captions.get(concept, [])
        if concept in captions and len(texts) != len(shown[0]):
            raise ValueError(f"{concept} has {len(shown[0])} pictures and {len(texts)} captions")
        rows.append(GridRow(str(concept), shown, texts))
    return draw_grid(rows, figsize, title)
