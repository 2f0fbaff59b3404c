"""What the functions on trust are given, checked."""
from __future__ import annotations

from typing import Any

import numpy as np

from crp.concepts import as_ids
from crp.store.reader import ReferenceStore
from crp.store.references import check_concept


def chosen_concepts(store: ReferenceStore, layer: str, concepts: Any) -> np.ndarray:
    """Ids of concepts, each once and counted from the first; all of the layer for None.

    Raises
    ------
    TypeError, IndexError
        If there are none such.
    """
    count = len(store.concepts(layer))
    if concepts is None:
        return np.arange(count)
    for concept in (ids := as_ids(concepts)):
        check_concept(layer, concept, count)
    return np.array(list(dict.fromkeys(concept % count for concept in ids)), int)


def checked_seed(random_state: Any) -> int | None:
    """A seed, as an int; None stays.

    Raises
    ------
    ValueError
        If it is none.
    """
    if random_state is None:
        return None
    if isinstance(random_state, bool) or not isinstance(random_state, (int, np.integer)) or random_state < 0:
        raise ValueError(f"random_state is None or a whole number from 0 on, not {random_state!r}")
    return int(random_state)
