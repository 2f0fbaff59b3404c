"""How well a map keeps neighbours."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

_SIX = 6  # neighbours that a point has in a plane, where points are evenly spread


@dataclass(frozen=True)
class MapQuality:
    """How well a map keeps neighbours.

    Attributes
    ----------
    trustworthiness : float
        From 0 to 1: whether neighbours on the map are neighbours by profile. About 0.5 if points are put anywhere.
    unspread : float or None
        Trustworthiness of the layout from which the map was made, before it was spread or rounded; None if it is that.
    nearest_kept : float
        Share of the points that have their nearest neighbour by profile among the six nearest on the map. Of several
        equally near ones any will do.
    n_neighbors : int
        So many neighbours trustworthiness looks at.

    References
    ----------
    J. Venna, S. Kaski (2001). Neighborhood Preservation in Nonlinear Projection Methods: An Experimental Study.
    ICANN 2001. Trustworthiness is that of ``sklearn.manifold.trustworthiness``.
    """

    trustworthiness: float
    unspread: float | None
    nearest_kept: float
    n_neighbors: int

    def __repr__(self) -> str:
        before = "" if self.unspread is None else f", unspread={self.unspread:.3f}"
        return (f"MapQuality(trustworthiness={self.trustworthiness:.3f}{before}, nearest_kept={self.nearest_kept:.1%}, "
                f"n_neighbors={self.n_neighbors})")


def measure(
    points: np.ndarray, distances: np.ndarray, n_neighbors: int = 5, unspread: np.ndarray | None = None
) -> MapQuality:
    """Compare points with the distances of what they stand for.

    Parameters
    ----------
    points : numpy.ndarray
        [N, 2]
    distances : numpy.ndarray
        [N, N]
    n_neighbors : int, default 5
        Fewer than half of the points.
    unspread : numpy.ndarray, optional
        [N, 2], where the points came from.
    """
    from sklearn.manifold import trustworthiness  # which takes seconds to import

    count = len(points)
    if not 1 <= n_neighbors < count / 2:
        raise ValueError(f"n_neighbors is at least 1 and fewer than half of the {count} on the map, not {n_neighbors}")

    def trust(places: np.ndarray) -> float:
        return float(trustworthiness(distances, places, n_neighbors=n_neighbors, metric="precomputed"))

    return MapQuality(
        trust(points), None if unspread is None else trust(unspread), _nearest_kept(points, distances), n_neighbors
    )


def _nearest_kept(points: np.ndarray, distances: np.ndarray) -> float:
    others = np.where(np.eye(len(points), dtype=bool), np.inf, distances)
    near = np.asarray(KDTree(points).query(points, min(_SIX + 1, len(points)))[1])
    shortest = others.min(1)
    reached = np.take_along_axis(others, near, 1).min(1)
    return float(np.mean(reached <= shortest + 1e-9 * np.abs(shortest)))
