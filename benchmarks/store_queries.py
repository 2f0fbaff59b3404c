"""Top references of a concept in a store of 50,000 samples x 13,416 concepts in 16 layers, made synthetically.

It needs 7 GB of disk for a while. Values are random; the query of one class, and any k, reads a column.
"""
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import Row

from crp.store import ROW_DTYPE, LayerEntry, ReferenceStore
from crp.store.creation import create_store
from crp.store.schema import ConceptEntry
from crp.store.sealing import seal_store
from crp.store.shards import ShardWriter

SAMPLES, SHARD, CLASSES = 50_000, 4_096, 1_000
WIDTHS = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512, 4096, 4096, 1000]
CONCEPT = 7


def make_store(path: Path) -> ReferenceStore:
    """Write relevances with positions, and activations of one row for each sample as small as possible."""
    none = "0" * 64
    concept = ConceptEntry(**{"class": "synthetic", "settings": none})
    layers = [
        LayerEntry(
            key=f"L{i:04d}", name=f"layer{i}", concepts=width, position_shape=(14, 14) if width <= 512 else (),
            concept=concept,
        )
        for i, width in enumerate(WIDTHS)
    ]
    hashes = dict.fromkeys(("output", "attributes", "code"), none)
    settings = {
        "model": {
            "class": "synthetic", "modules": none, "weights": none, "code": none, "modules in training mode": 0,
            "attributes": {}, "hooks": {}, "passing": [], "answers": None,
        },
        "attribution": {
            "class": "synthetic", **hashes, "functional": False, "accelerate": True, "no_param_grad": True
        },
        "dataset": {"length": SAMPLES, "samples": None, "targets": None},
        "composite": {"class": "synthetic", "rules": {}, "operations": {}, "canonizers": []},
        "options": {"max_target": "sum", "batch_size": 1, "checkpoint": SHARD, "keep": "all", "dtype": "float32"},
        "layers": [layer.model_dump(mode="json") for layer in layers],
    }
    place = create_store(path, settings, "cpu")
    random = np.random.default_rng(0)
    for first in range(0, SAMPLES, SHARD):
        stop = min(first + SHARD, SAMPLES)
        rows = np.zeros(stop - first, ROW_DTYPE)
        rows["sample"], rows["target"] = np.arange(first, stop), np.arange(first, stop) % CLASSES
        with ShardWriter(place, first, stop, 1) as writer:
            for quantity in ("relevance", "activation"):
                count = len(rows) if quantity == "relevance" else 1
                writer.append(f"{quantity}.rows", rows[:count])
                for layer in layers:
                    values = random.random((count, layer.concepts), dtype=np.float32)
                    writer.append(f"{layer.key}.{quantity}.value", values)
                    writer.append(f"{layer.key}.{quantity}.total", values.sum(1))
                    if layer.has_positions:
                        writer.append(f"{layer.key}.{quantity}.position", (values * 196).astype(np.int32))
    seal_store(place)
    return ReferenceStore(path)


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
