"""Top references of a concept in a store of 50,000 samples x 13,416 concepts in 16 layers, made synthetically.

Values are random; the query of one class, and any k, reads a column.
"""
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import Row
from large_store import make_store

from crp.store import ReferenceStore

CONCEPT = 7


def measure(query: Callable[[str], object], layers: list[str]) -> tuple[float, float, float]:
    """Milliseconds of the median, the fastest and the slowest first query of each layer."""
    found = []
    for layer in layers:
        start = time.perf_counter()
        query(layer)
        found.append((time.perf_counter() - start) * 1e3)
    return float(np.median(found)), min(found), max(found)


def check(store: ReferenceStore) -> None:
    """Compare the three kinds of queries with a full sort."""
    layer = store.layers[3]
    values, targets = np.asarray(store.values(layer, normalised=True)[:, CONCEPT]), store.targets
    order = np.argsort(-values, kind="stable")
    assert np.array_equal(store.top(layer, CONCEPT, k=40).samples, order[:40])
    assert np.array_equal(store.top(layer, CONCEPT, k=500).samples, order[:500])
    assert np.array_equal(store.top(layer, CONCEPT, k=8, target=3).samples, order[targets[order] == 3][:8])


def main() -> None:
    """Measure and print the rows."""
    folder = Path(tempfile.mkdtemp())
    try:
        store = make_store(folder / "store")
        check(store)
        for name, arguments, reach in (
            ("k = 40", {"k": 40}, 10), ("k = 500", {"k": 500}, 200), ("one class", {"k": 8, "target": 3}, 200),
        ):
            fresh = ReferenceStore(folder / "store")
            median, low, high = measure(
                lambda layer, fresh=fresh, arguments=arguments: fresh.top(layer, CONCEPT, **arguments), store.layers
            )
            Row(f"top references, {name}, 50,000 x 13,416", "", median, reach, (low, high), "ms").print()
    finally:
        shutil.rmtree(folder)


main()
