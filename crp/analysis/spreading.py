"""Spreading: points of a map move apart, and those with similar profiles stay side by side.

The two spreads share their means. ``exchange`` lets points change places, ``_settle`` moves them; both look at
neighbour ranks alone, so that profiles may have any unit.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import KDTree

from crp.analysis.layouts import scale_to_unit, spread_over_disc, sunflower

ALIKE = 5  # so many nearest neighbours by profile are alike
_OF_ALIKE, _OF_OTHERS = 1.2, 1.3  # the distances that points seek, in least distances; nearest neighbours seek 1
_STEPS, _GROWING, _PATIENCE = 300, 80, 3000


@dataclass(frozen=True)
class _Manner:
    """How points settle.

    The least distance is a share of :func:`even_spacing`; nearest neighbours and those alike are drawn by a share of
    the missing way in each step, if they are no farther than a reach, in least distances.
    """

    least: float
    to_nearest: float
    to_alike: float
    reach_nearest: float
    reach_alike: float
    hold: Callable[[np.ndarray], np.ndarray]
    grows: bool


Spread = Literal["even", "apart", False]


def check_spread(spread: Any) -> Spread:
    """What a spread means, "even" for True; a ValueError for unknown ones."""
    known: dict[Any, Spread] = {True: "even", "even": "even", "apart": "apart", False: False}
    if isinstance(spread, (str, bool)) and spread in known:
        return known[spread]
    raise ValueError(f"spread is 'even', 'apart' or False, not {spread!r}")


def even_spacing(count: int) -> float:
    """Distance between neighbours of points that fill the unit disc as evenly as can be, in a hexagonal grid."""
    return float(np.sqrt(2 * np.pi / (np.sqrt(3) * count)))


def spread_points(points: np.ndarray, distances: np.ndarray, spread: Spread) -> np.ndarray:
    """Points [N, 2] spread as :func:`spread_evenly` or :func:`move_apart` do, or as they are.

    ``distances`` [N, N] are those of the profiles, by which neighbours are told.
    """
    if spread is False or len(points) < 2:
        return points
    return (spread_evenly if spread == "even" else move_apart)(points, neighbour_ranks(distances))


def neighbour_ranks(distances: np.ndarray) -> np.ndarray:
    """Who is whose neighbour.

    Parameters
    ----------
    distances : numpy.ndarray
        [N, N]; of equal ones the first counts as the shortest.

    Returns
    -------
    numpy.ndarray
        [N, N] integers: in each row 0 for itself, 1 for the nearest, 2 for the next ...
    """
    distances = np.array(distances)
    np.fill_diagonal(distances, -1)
    order = np.argsort(distances, axis=1, kind="stable")
    ranks = np.empty(order.shape, np.int32)
    np.put_along_axis(ranks, order, np.arange(len(order), dtype=np.int32)[None], axis=1)
    return ranks


def spread_evenly(points: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Spread points evenly over the unit disc, neighbours side by side.

    Points go to evenly spread places with the least sum of squared ways, exchange them as long as that brings
    neighbours together, and those alike draw nearer, so that gaps open between those that are not.

    Parameters
    ----------
    points : numpy.ndarray
        [N, 2]
    ranks : numpy.ndarray
        [N, N], by :func:`neighbour_ranks`.

    Returns
    -------
    numpy.ndarray
        [N, 2], none nearer to another than 0.7 of :func:`even_spacing`.
    """
    places = exchange(spread_over_disc(points), ranks, beside=12, reward=0.5)
    places = exchange(places, ranks, beside=6, reward=0.5)
    return exchange(_settle(places, ranks, _EVENLY), ranks, beside=6, reward=2)


def move_apart(points: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Take overlaps away and leave points where they are otherwise, nearest neighbours side by side.

    Parameters
    ----------
    points : numpy.ndarray
        [N, 2]
    ranks : numpy.ndarray
        [N, N], by :func:`neighbour_ranks`.

    Returns
    -------
    numpy.ndarray
        [N, 2], in [-1, 1], none nearer to another than half of :func:`even_spacing`.
    """
    return _settle(2 * scale_to_unit(points) - 1, ranks, _APART)


def exchange(places: np.ndarray, ranks: np.ndarray, beside: int, reward: float, limit: int = 20) -> np.ndarray:
    """Let points exchange their places as long as those beside each other become more alike.

    A pair beside each other costs what trustworthiness counts (how far one is from the other's nearest neighbours by
    profile, 1 being the farthest), less a reward divided by its rank. In a round all pairs for whom no other exchange
    is better make theirs at once, as far as that lowers the costs.

    Parameters
    ----------
    places : numpy.ndarray
        [N, 2], that of each point.
    ranks : numpy.ndarray
        [N, N], by :func:`neighbour_ranks`.
    beside : int
        How many places stand beside a place, the nearest.
    reward : float
        For a nearest neighbour.
    limit : int, default 20
        Rounds at most.

    Returns
    -------
    numpy.ndarray
        [N, 2], the new place of each point.
    """
    links = _links(places, beside)
    costs = np.maximum(0, ranks - ALIKE) / len(places) - reward / np.maximum(ranks, 1)
    costs = costs + costs.T
    np.fill_diagonal(costs, 0)
    at = np.arange(len(places))  # the point at each place
    for _ in range(limit):
        pairs, now = _best_exchanges(costs[np.ix_(at, at)], links), _cost(costs, links, at)
        while len(pairs):
            exchanged = at.copy()
            exchanged[pairs] = at[pairs[:, ::-1]]
            if _cost(costs, links, exchanged) < now - 1e-9:
                break
            pairs = pairs[:len(pairs) // 2]
        if not len(pairs):
            break
        at = exchanged
    result = np.empty_like(places)
    result[at] = places
    return result


def _settle(points: np.ndarray, ranks: np.ndarray, manner: _Manner) -> np.ndarray:
    """Move points [N, 2] until none is nearer to another than the least distance.

    Points push each other away and draw those alike near, to distances that are the shorter the more they are alike.
    If distances grow, from a hundredth, dense places swell and keep their order. Who finds no room goes, as all then
    do, to evenly spread places.
    """
    ranks = np.minimum(ranks, ranks.T)
    sought = 1.01 * np.select([ranks <= 1, ranks <= ALIKE], [1, _OF_ALIKE], _OF_OTHERS)
    alike = np.argwhere(np.triu(ranks <= ALIKE, 1))
    are_nearest = ranks[tuple(alike.T)] <= 1
    pull = np.where(are_nearest, manner.to_nearest, manner.to_alike)
    reach = np.where(are_nearest, manner.reach_nearest, manner.reach_alike)
    least = manner.least * even_spacing(len(points))
    units = np.ones(_STEPS)
    if manner.grows:
        units[:_GROWING] = np.geomspace(0.01, 1, _GROWING)
    points = points.astype(np.float64) + 1e-6 * sunflower(len(points))  # sets those at one place apart
    as_near_as = _lengths(points, alike) if manner.grows else 0.
    for unit in least * units:
        near, far = _nearer_than(_OF_OTHERS * unit, points), _lengths(points, alike)
        pushes = np.maximum(0, unit * sought[tuple(near.T)] - _lengths(points, near))
        pulls = np.minimum(0, np.maximum(as_near_as, unit * sought[tuple(alike.T)]) - far) * pull * (far < unit * reach)
        points = manner.hold(_stretched(points, np.concatenate([near, alike]), np.concatenate([pushes, pulls])))
    for _ in range(_PATIENCE):
        near = _nearer_than(least, points)
        if not len(near):
            return points
        points = manner.hold(_stretched(points, near, 1.01 * least - _lengths(points, near)))
    return spread_over_disc(points)


def _within_disc(points: np.ndarray) -> np.ndarray:
    return points / np.maximum(1, np.linalg.norm(points, axis=1, keepdims=True))


def _within_square(points: np.ndarray) -> np.ndarray:
    return points.clip(-1, 1)


_EVENLY = _Manner(0.7, to_nearest=0.2, to_alike=0.2, reach_nearest=np.inf, reach_alike=2.2, hold=_within_disc,
                  grows=False)
_APART = _Manner(0.5, to_nearest=0.5, to_alike=0.02, reach_nearest=4, reach_alike=6, hold=_within_square, grows=True)


def _nearer_than(distance: float, points: np.ndarray) -> np.ndarray:
    """Pairs of points, [K, 2]."""
    return KDTree(points).query_pairs(distance, output_type="ndarray")


def _lengths(points: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[pairs[:, 1]] - points[pairs[:, 0]], axis=1)


def _stretched(points: np.ndarray, pairs: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Points after the way between each of the pairs [K, 2] got longer by [K]; who is in many goes a mean way."""
    pairs, by = pairs[by != 0], by[by != 0]
    first, second = pairs.T
    ways = points[second] - points[first]
    ways[~ways.any(1)] = 1e-9  # any direction will do
    ways *= (by / 2 / np.linalg.norm(ways, axis=1))[:, None]
    steps = np.zeros_like(points)
    np.add.at(steps, first, -ways)
    np.add.at(steps, second, ways)
    demands = np.bincount(pairs.ravel(), minlength=len(points))
    return points + steps / np.maximum(1, 0.4 * demands)[:, None]


def _links(places: np.ndarray, beside: int) -> csr_array:
    """[N, N]: 1 where one of two places stands beside the other, 2 where each does."""
    count, beside = len(places), min(beside, len(places) - 1)
    near = KDTree(places).query(places, np.arange(2, beside + 2))[1]  # the first is the place itself
    links = csr_array((np.ones(near.size), (np.repeat(np.arange(count), beside), near.ravel())), shape=(count, count))
    return (links + links.T).tocsr()


def _cost(costs: np.ndarray, links: csr_array, at: np.ndarray) -> float:
    first, second = links.nonzero()
    return float(links.data @ costs[at[first], at[second]])


def _best_exchanges(costs: np.ndarray, links: csr_array) -> np.ndarray:
    """Pairs of places [K, 2] for both of whose points no other exchange gains more, the best first.

    ``costs`` [N, N] are those between the points at the places.
    """
    numbers = np.arange(len(costs))
    elsewhere = (links @ costs).T  # of each point at each place, if the others stayed
    here = elsewhere.diagonal()
    gains = here[:, None] + here - elsewhere - elsewhere.T - 2 * links.multiply(costs).toarray()
    partners = gains.argmax(1)
    gain = gains[numbers, partners]
    first = np.flatnonzero((partners[partners] == numbers) & (numbers < partners) & (gain > 1e-9))
    first = first[np.argsort(-gain[first], kind="stable")]
    return np.stack([first, partners[first]], 1)
