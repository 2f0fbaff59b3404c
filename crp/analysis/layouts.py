"""Layouts: rows of a matrix as points on a plane, and pictures of values at points."""
from __future__ import annotations

from typing import Any

import numpy as np
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.optimize import linear_sum_assignment
from scipy.spatial import QhullError

from crp.analysis.clustering import as_values

METHODS = ("umap", "tsne", "pca")
_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))


def project(values: Any, method: str = "tsne", *, random_state: int | None = 0) -> np.ndarray:
    """Put the rows of a matrix on a plane: samples by their activations, or channels by their profiles.

    Neighbourhoods (perplexity 30, or 15 neighbours of UMAP) shrink where there are few rows; up to three rows are
    projected on their principal components. Rows that are all alike give one point.

    Parameters
    ----------
    values : array-like
        [N, D]
    method : {"tsne", "umap", "pca"}, default "tsne"
    random_state : int or None, default 0

    Returns
    -------
    numpy.ndarray
        [N, 2]
    """
    check_method(method)
    values = np.asarray(as_values(values), np.float64)
    if not np.isfinite(values).all():
        raise ValueError("values hold NaN or infinite numbers")
    count = len(values)
    if np.ptp(values, axis=0).max() == 0:
        return np.zeros((count, 2))
    if method == "pca" or count <= 3:
        from sklearn.decomposition import PCA  # which takes seconds to import

        points = PCA(min(2, *values.shape), svd_solver="full").fit_transform(values)
        return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    values = values / np.abs(values).max()  # t-SNE and UMAP calculate in float32
    if method == "umap":
        start = "spectral" if count > 15 else "random"  # the eigenvectors it needs do not exist for few
        umap = _umap()(n_neighbors=min(15, count - 1), init=start, random_state=random_state, n_jobs=1)
        return umap.fit_transform(values)
    from sklearn.manifold import TSNE

    return TSNE(perplexity=perplexity_for(count), init=_start(values), random_state=random_state).fit_transform(values)


def spread_over_disc(points: np.ndarray) -> np.ndarray:
    """Move points [N, 2] to evenly spread places on the unit disc, with the least sum of squared ways."""
    places = sunflower(len(points))
    _, chosen = linear_sum_assignment(-(points - points.mean(0)) @ places.T)
    return places[chosen]


def sunflower(count: int) -> np.ndarray:
    """Evenly spread places on the unit disc, [N, 2], in a spiral from the centre."""
    numbers = np.arange(count)
    radius, angle = np.sqrt((numbers + 0.5) / count), numbers * _GOLDEN_ANGLE
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def scale_to_unit(points: np.ndarray) -> np.ndarray:
    """Scale each axis of points [N, 2] to [0, 1]; 0.5 where all are alike."""
    low, extent = points.min(0), np.ptp(points, axis=0)
    extent = np.where(extent > 1e-9 * extent.max(), extent, 0)  # the rest is rounding
    return np.where(extent > 0, (points - low) / np.where(extent > 0, extent, 1), 0.5)


def grid(low: float, high: float, resolution: int) -> np.ndarray:
    """Places of the pixels of a square picture, [resolution, resolution, 2] as (x, y)."""
    if resolution < 2:
        raise ValueError(f"resolution is at least 2, not {resolution}")
    ticks = np.linspace(low, high, resolution)
    return np.stack(np.meshgrid(ticks, ticks), -1)


def interpolate(
    points: np.ndarray, values: np.ndarray, places: np.ndarray, method: str, outside: float = 0.
) -> np.ndarray:
    """Values [..., N] of points [N, 2] at places [H, W, 2], within the points' convex hull: [..., H, W].

    ``method`` is "linear" or "nearest". Points on a line have no hull: the nearest counts everywhere.
    """
    columns = np.moveaxis(values, -1, 0)
    interpolators = {"linear": LinearNDInterpolator, "nearest": NearestNDInterpolator}
    if method not in interpolators:
        raise ValueError(f"method is 'linear' or 'nearest', not {method!r}")
    try:
        inside = np.isfinite(LinearNDInterpolator(points, np.zeros(len(points)))(places))
    except (QhullError, ValueError):  # fewer than three points, or all on a line
        inside, method = np.ones(places.shape[:2], bool), "nearest"
    picture = np.moveaxis(interpolators[method](points, columns)(places), (0, 1), (-2, -1))
    return np.where(inside, picture, outside)


def perplexity_for(count: int) -> float:
    """Perplexity of t-SNE for a number of points: 30, less for fewer than 91."""
    return min(30., (count - 1) / 3)


def _start(values: np.ndarray) -> str:
    return "pca" if min(values.shape) >= 2 else "random"


def check_method(method: str) -> None:
    """Raise a ValueError for unknown methods."""
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(map(repr, METHODS))}, not {method!r}")


def _umap() -> Any:
    try:
        from umap import UMAP
    except ImportError:
        raise ImportError("method='umap' needs umap-learn: pip install 'crp-concepts[umap]'; 'tsne' does not") from None
    return UMAP
