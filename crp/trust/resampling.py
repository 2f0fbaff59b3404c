"""Are references stable? What halves of the samples would show, from the matrices of a store alone."""
from __future__ import annotations

import numpy as np

from crp.store.reader import ReferenceStore
from crp.store.topk import top_rows

_DEPTH = 8  # of as many times the references, a half of the samples holds them all, but for one case in millions
_CONCEPTS_AT_ONCE = 64


def halves_agree(
    store: ReferenceStore, layer: str, concepts: np.ndarray, references: int, splits: int, random_state: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """How alike the references of concepts are that two halves of the samples give.

    Alike is the cosine between mean profiles: the shares of relevance that all other concepts of the layer have at the
    references.

    Parameters
    ----------
    store : ReferenceStore
    layer : str
    concepts : numpy.ndarray
        Ids.
    references : int
        How many a concept has in each half.
    splits : int
        Into how many pairs of halves the samples are split, at random.
    random_state : int or None

    Returns
    -------
    agreement, control : numpy.ndarray
        [concepts]; the control compares references with as many samples drawn at random.
    """
    matrix = store.values(layer, "relevance", normalised=True)
    generator = np.random.default_rng(random_state)
    depth = min(_DEPTH * references, len(matrix))
    best = top_rows(matrix.blocks(), matrix.shape[1], depth)[0][concepts]  # [concepts, depth]
    kept = min(references, max(depth // 2, 1))
    agreement, control = np.empty(len(concepts)), np.empty(len(concepts))
    for first in range(0, len(concepts), _CONCEPTS_AT_ONCE):
        part = slice(first, first + _CONCEPTS_AT_ONCE)
        strangers = generator.integers(len(matrix), size=(len(best[part]), kept))
        rows = np.union1d(best[part], strangers)
        profiles = np.asarray(matrix[rows], np.float64)
        for i, concept in enumerate(concepts[part]):
            own, others = (profiles[np.searchsorted(rows, wanted)] for wanted in (best[first + i], strangers[i]))
            own[:, concept] = others[:, concept] = 0
            sides = generator.random((splits, depth)).argsort(1) < depth // 2 if depth > 1 else np.ones((1, 1), bool)
            pairs = [(own[side][:kept].mean(0), own[~side][:kept].mean(0)) for side in sides if (~side).any()]
            agreement[first + i] = np.mean([_cosine(*pair) for pair in pairs]) if pairs else np.nan
            control[first + i] = _cosine(own[:kept].mean(0), others.mean(0))
    return agreement, control


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / lengths) if lengths > 0 else float("nan")
