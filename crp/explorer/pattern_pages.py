"""Pages of patterns and of the projection of all samples."""
from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from crp.explorer.documents import PatternsPage
from crp.explorer.source import NotThereError, Source
from crp.store.archive import archive_bytes
from crp.store.attached import read_attached, write_attached
from crp.store.folder import StoreError

if TYPE_CHECKING:
    from crp.analysis.patterns import Patterns

MOST_ROWS_OF_TSNE, MOST_COMPONENTS = 5000, 50
STATISTICS = ("lower", "q1", "median", "q3", "upper", "mean", "minimum", "maximum")
_KIND = "crp-projection 1"


def patterns_page(source: Source, number: int, quantity: str) -> PatternsPage:
    """The patterns that a store keeps of a layer."""
    layer, found = source.layer(number), source.patterns(source.layer(number), quantity)
    how = f"find_patterns(store, {layer!r}, {quantity!r}).save(store)"
    if found is None:
        return PatternsPage(found=False, options={}, persistence=[], sizes=[], noise=0, how=how)
    options = {name: value for name, value in found.options.items() if isinstance(value, (str, int, float))}
    return PatternsPage(
        found=True, options=options, persistence=found.persistence.tolist(), sizes=found.sizes.tolist(),
        noise=int((found.labels < 0).sum()), how=how,
    )


def need_patterns(source: Source, number: int, quantity: str) -> Patterns:
    """The patterns of a layer; a NotThereError if the store keeps none."""
    found = source.patterns(source.layer(number), quantity)
    if found is None:
        raise NotThereError(f"the store keeps no patterns of the {quantity} of {source.layer(number)!r}")
    return found


def box_plots(source: Source, number: int, quantity: str, pattern: int) -> np.ndarray:
    """[8, C] float32, for each unit what its box plot over the rows of a pattern shows; see ``STATISTICS``.

    Of all rows, where the pattern is -1.
    """
    found = need_patterns(source, number, quantity)
    if not -1 <= pattern < len(found):
        raise NotThereError(f"there is no pattern {pattern}; there are {len(found)}, numbered from 0")
    statistics = found.statistics(None if pattern < 0 else pattern)
    return np.stack([getattr(statistics, name) for name in STATISTICS]).astype(np.float32)


def pattern_of_concepts(source: Source, number: int, quantity: str) -> np.ndarray | None:
    """[C] float32, for each concept the pattern in which its mean is most above that of all rows; -1 where none is.

    None if the store keeps no patterns of the layer, or no matrices.
    """
    layer = source.layer(number)
    found = None if source.store.options["keep"] == "top" else source.patterns(layer, quantity)
    if found is None or len(found) == 0:
        return None
    digest = hashlib.sha256(found.labels.tobytes()).hexdigest()[:16]
    key = {"what": "patterns of concepts", "layer": layer, "quantity": quantity, "labels": digest}
    content = source.kept.read(key)
    if content is None or len(content) != 4 * len(source.store.concepts(layer)):
        membership = np.arange(len(found))[:, None] == found.labels
        sums, total = np.zeros((len(found), len(source.store.concepts(layer)))), 0.
        for rows, block in source.store.values(layer, quantity).placed_blocks():
            sums += membership[:, rows] @ block.astype(np.float64)
            total = total + block.sum(0, dtype=np.float64)
        rises = sums / found.sizes[:, None] - total / len(found.labels)
        best = np.where(rises.max(0) > 0, rises.argmax(0), -1).astype("<f4")
        content = source.kept.write(key, best.tobytes())
    return np.frombuffer(content, "<f4")


def find_and_keep(source: Source, number: int, quantity: str) -> None:
    """Find patterns of a layer, and keep them in the store."""
    from crp.analysis import find_patterns

    rows = len(source.rows(quantity))
    size = max(5, min(rows // 100, 50))
    find_patterns(source.store, source.layer(number), quantity, min_pattern_size=size).save(source.store)


def projection(source: Source, number: int, quantity: str) -> np.ndarray | None:
    """[rows, 2] float32, the rows of a layer on a map; None if the store keeps none."""
    found = read_attached(source.store, _stem(source, number, quantity), _KIND, _made_of)
    if found is None or found[0][0] != source.store.identity() or len(found[0][1]) != len(source.rows(quantity)):
        return None
    return found[0][1]


def project_and_keep(source: Source, number: int, quantity: str) -> None:
    """Lay out the rows of a layer, and keep their places in the store.

    By t-SNE; many rows by their first two principal components, which takes seconds where that takes an hour.
    """
    from crp.analysis import project

    matrix = source.store.values(source.layer(number), quantity)
    values = np.concatenate([np.asarray(block, np.float32) for block in matrix.blocks()])
    method = "tsne" if len(values) <= MOST_ROWS_OF_TSNE else "pca"
    points = project(values, method, random_state=0).astype(np.float32)
    settings = {"source": source.store.identity(), "method": method}
    content = archive_bytes(_KIND, settings, {"points": points})
    write_attached(source.store, _stem(source, number, quantity), content)


def _made_of(settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[str, np.ndarray]:
    points = arrays["points"]
    if points.dtype != np.float32 or points.ndim != 2 or points.shape[1] != 2:
        raise StoreError(f"points are float32 [rows, 2], not {points.dtype} {points.shape}")
    return str(settings["source"]), points


def _stem(source: Source, number: int, quantity: str) -> str:
    return f"projection.{source.store.attached_stem(source.layer(number), quantity)}"
