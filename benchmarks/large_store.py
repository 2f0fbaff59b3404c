"""A store of 50,000 samples x 13,416 concepts in 16 layers, made synthetically; it needs 8 GB of disk for a while."""
from pathlib import Path

import numpy as np

from crp.store import ROW_DTYPE, LayerEntry, ReferenceStore
from crp.store.creation import create_store
from crp.store.schema import ConceptEntry
from crp.store.sealing import seal_store
from crp.store.shards import ShardWriter

SAMPLES, SHARD, CLASSES = 50_000, 4_096, 1_000
WIDTHS = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512, 4096, 4096, 1000]


def make_store(path: Path) -> ReferenceStore:
    """Write random relevances and activations."""
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
        "options": {
            "max_target": "sum", "batch_size": 1, "checkpoint": SHARD, "keep": "all", "dtype": "float32",
            "rows": "samples",
        },
        "layers": [layer.model_dump(mode="json") for layer in layers],
    }
    place = create_store(path, settings, "cpu")
    random = np.random.default_rng(0)
    for first in range(0, SAMPLES, SHARD):
        stop = min(first + SHARD, SAMPLES)
        rows = np.zeros(stop - first, ROW_DTYPE)
        rows["sample"], rows["position"] = np.arange(first, stop), -1
        with ShardWriter(place, first, stop, 1) as writer:
            for quantity in ("relevance", "activation"):
                rows["target"] = np.arange(first, stop) % CLASSES if quantity == "relevance" else -1
                writer.append(f"{quantity}.rows", rows)
                for layer in layers:
                    values = random.random((len(rows), layer.concepts), dtype=np.float32)
                    writer.append(f"{layer.key}.{quantity}.value", values)
                    writer.append(f"{layer.key}.{quantity}.total", values.sum(1))
                    if layer.has_positions:
                        writer.append(f"{layer.key}.{quantity}.position", (values * 196).astype(np.int32))
    seal_store(place)
    return ReferenceStore(path)
