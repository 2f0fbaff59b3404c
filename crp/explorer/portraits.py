"""What is shown of the values of each concept of a layer: how they are distributed, and which samples have which.

Made for all concepts of a layer at once, in the background, and kept; of single ones when they are asked for before.
"""
from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from crp.explorer.keeping import Kept
from crp.store import ReferenceStore
from crp.store.matrix import floored

BINS, SHOWN = 40, 8
_CHUNK_BYTES = 2 ** 26
GROUPS = ("middle", "random", "lowest")


@dataclass(frozen=True)
class Portraits:
    """Of some concepts, by their place.

    Attributes
    ----------
    edges, counts : numpy.ndarray
        [C, bins + 1], [C, bins]; of the values that are not zero.
    zeros : numpy.ndarray
        [C], share of the values that are exactly zero.
    rows : numpy.ndarray
        [C, groups, k] int32, rows in the middle of those that are not zero, at random, and the lowest; -1 for none.
    shares : numpy.ndarray
        [C, groups, k] float32, the shares of the concept there.
    """

    edges: np.ndarray
    counts: np.ndarray
    zeros: np.ndarray
    rows: np.ndarray
    shares: np.ndarray

    def of(self, place: int) -> Portraits:
        """That of one concept."""
        return Portraits(*(getattr(self, name)[place:place + 1] for name in self.__dataclass_fields__))


def draw(columns: np.ndarray, totals: np.ndarray, concepts: range) -> Portraits:
    """Portraits of concepts from their values [C, rows] and the totals of rows."""
    found = [_of_one(values, values / totals, concept) for values, concept in zip(columns, concepts)]
    return Portraits(*(np.stack(parts) for parts in zip(*found)))


def _of_one(values: np.ndarray, shares: np.ndarray, concept: int) -> tuple[np.ndarray, ...]:
    others = values[(values != 0) & np.isfinite(values)].astype(np.float64)
    counts, edges = np.histogram(others, BINS) if len(others) else (np.zeros(BINS), np.full(BINS + 1, np.nan))
    active = np.flatnonzero(shares)
    middle = active[in_order(shares[active], max((len(active) - SHOWN) // 2, 0), SHOWN)]
    drawn = np.random.default_rng(concept).choice(len(values), min(SHOWN, len(values)), replace=False)
    lowest = in_order(shares, max(len(shares) - SHOWN, 0), SHOWN)[::-1]
    rows = np.full((len(GROUPS), SHOWN), -1, np.int32)
    for place, chosen in zip(rows, (middle, np.sort(drawn), lowest)):
        place[:len(chosen)] = chosen
    zeros = np.asarray(np.mean(values == 0) if len(values) else 0., np.float32)
    own = np.where(rows >= 0, shares[rows], 0).astype(np.float32)
    return edges.astype(np.float32), counts.astype(np.int32), zeros, rows, own


def in_order(values: np.ndarray, first: int, count: int) -> np.ndarray:
    """Places of the values that are at so many ranks from a first one on, in descending order."""
    stop = min(first + count, len(values))
    if stop <= first:
        return np.empty(0, int)
    found = np.argpartition(-values, (first, stop - 1))[first:stop]
    return found[np.lexsort((found, -values[found]))]


def kept_portraits(store: ReferenceStore, kept: Kept, layer: str, quantity: str) -> Portraits | None:
    """The portraits of all concepts of a layer, if they were kept."""
    content = kept.read(_key(layer, quantity))
    return None if content is None else _from_bytes(content, store.entry(layer).concepts)


def keep_portraits(store: ReferenceStore, kept: Kept, layer: str, quantity: str) -> None:
    """Draw the portraits of all concepts of a layer, and keep them; unless that has been done."""
    if kept.holds(_key(layer, quantity)):
        return
    totals = floored(store.totals(layer, quantity))
    parts = [draw(columns, totals, concepts) for concepts, columns in _columns(store, layer, quantity)]
    found = Portraits(*(
        np.concatenate([getattr(part, name) for part in parts]) for name in Portraits.__dataclass_fields__
    ))
    content = io.BytesIO()
    np.savez(content, **vars(found))
    kept.write(_key(layer, quantity), content.getvalue())


def _columns(store: ReferenceStore, layer: str, quantity: str) -> Iterator[tuple[range, np.ndarray]]:
    """Some concepts at a time, with their values [concepts, rows]; matrices are read in rows, past their maps."""
    matrix = store.values(layer, quantity)
    rows, width = matrix.shape
    step = max(_CHUNK_BYTES // (4 * max(rows, 1)), 1)
    for first in range(0, width, step):
        concepts = range(first, min(first + step, width))
        columns = np.empty((len(concepts), rows), np.float32)
        for place, block in matrix.placed_blocks():
            columns[:, place] = block[:, concepts.start:concepts.stop].T
        yield concepts, columns


def _key(layer: str, quantity: str) -> dict[str, str]:
    return {"what": "portraits", "layer": layer, "quantity": quantity}


def _from_bytes(content: bytes, concepts: int) -> Portraits | None:
    """Portraits as they were kept; None for what is none, which somebody else may have put there."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = Portraits(**{name: arrays[name] for name in Portraits.__dataclass_fields__})
    except Exception:  # whatever numpy raises at a file of somebody else
        return None
    shapes = (concepts, BINS + 1), (concepts, BINS), (concepts,), (concepts, len(GROUPS), SHOWN)
    fits = [getattr(found, name).shape for name in Portraits.__dataclass_fields__] == [*shapes, shapes[-1]]
    return found if fits else None
