"""What the concepts of a layer do over all samples, in numbers: one pass over its matrix, kept afterwards."""
from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from crp.analysis.class_shares import ClassShares, shares_of_means
from crp.explorer.documents import Column
from crp.explorer.keeping import Kept
from crp.store import ReferenceStore

COLUMNS = {
    "share": "mean part of the layer's absolute values that the concept holds",
    "maximum": "largest value over the samples",
    "mean": "mean value over the samples",
    "zeros": "share of the samples at which it is exactly zero",
    "clarity": "how few classes it serves: 0 for all alike, 1 for a single one",
    "class": "the class that it serves most",
}
OF_TRUST = ("effect", "randomised", "noise", "references", "purity", "sparsity", "clarity", "similarity")


@dataclass(frozen=True)
class Summary:
    """Numbers of each concept of a layer.

    Attributes
    ----------
    columns : dict
        Name -> [C], those of ``COLUMNS``.
    classes : ClassShares
    """

    columns: dict[str, np.ndarray]
    classes: ClassShares

    @property
    def rank(self) -> np.ndarray:
        """[C], the place of each concept by share, from 1; on ties, the lower concept first."""
        order = np.argsort(-self.columns["share"], kind="stable")
        place = np.empty(len(order), int)
        place[order] = np.arange(1, len(order) + 1)
        return place


def summary(store: ReferenceStore, kept: Kept, layer: str, quantity: str) -> Summary:
    """The summary of a layer, as it was kept or made now."""
    content = kept.read(_key(layer, quantity))
    found = None if content is None else _from_bytes(content, store.entry(layer).concepts)
    if found is None:
        content = kept.write(_key(layer, quantity), _to_bytes(_summarised(store, layer, quantity)))
        found = _from_bytes(content, store.entry(layer).concepts)
        assert found is not None
    return found


def keep_summary(store: ReferenceStore, kept: Kept, layer: str, quantity: str) -> None:
    """Make the summary of a layer, and keep it; unless that has been done."""
    if not kept.holds(_key(layer, quantity)):
        summary(store, kept, layer, quantity)


def _key(layer: str, quantity: str) -> dict[str, str]:
    return {"what": "summary", "layer": layer, "quantity": quantity}


def _from_bytes(content: bytes, concepts: int) -> Summary | None:
    """A summary as it was kept; None for what is none, which somebody else may have put there."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            columns = {name: arrays[f"column_{name}"] for name in COLUMNS}
            classes = ClassShares(arrays["classes"], arrays["counts"], arrays["shares"])
    except Exception:  # whatever numpy raises at a file of somebody else
        return None
    shapes = [column.shape for column in columns.values()]
    fits = set(shapes) == {(concepts,)} and classes.shares.shape == (len(classes.classes), concepts)
    return Summary(columns, classes) if fits and len(classes.counts) == len(classes.classes) else None


def _to_bytes(found: Summary) -> bytes:
    content = io.BytesIO()
    classes = found.classes
    arrays: dict[str, Any] = {f"column_{name}": column for name, column in found.columns.items()}
    np.savez(
        content, classes=classes.classes, counts=classes.counts, shares=classes.shares.astype(np.float32), **arrays
    )
    return content.getvalue()


def _summarised(store: ReferenceStore, layer: str, quantity: str) -> Summary:
    if store.options["keep"] == "top":
        classes, counts, means = store.profile_of_classes(layer, quantity)
        of_classes = shares_of_means(classes, counts, means)
        unknown = np.full(means.shape[1], np.nan)
        table = store.table(layer, quantity, normalised=False)["value"]
        largest = table[:, 0] if table.shape[1] else unknown
        mean = counts @ means / max(counts.sum(), 1)
        columns = {"share": np.abs(of_classes.shares).mean(0), "maximum": largest, "mean": mean, "zeros": unknown}
    else:
        columns, of_classes = _one_pass(store, layer, quantity)
    columns |= {"clarity": of_classes.clarity, "class": _most_served(of_classes)}
    return Summary({name: np.asarray(columns[name], np.float32) for name in COLUMNS}, of_classes)


def _one_pass(store: ReferenceStore, layer: str, quantity: str) -> tuple[dict[str, np.ndarray], ClassShares]:
    matrix = store.values(layer, quantity)
    rows, width = matrix.shape
    classes, counts, membership = store.membership(quantity)
    sums, shares, total, zeros = np.zeros((len(classes), width)), np.zeros(width), np.zeros(width), np.zeros(width)
    maximum = np.full(width, -np.inf)
    for place, block in matrix.placed_blocks():
        sums += membership[:, place] @ block.astype(np.float64)
        amounts = np.abs(block)
        shares += (amounts / np.maximum(amounts.sum(1, keepdims=True), np.finfo(np.float32).tiny)).sum(0)
        total += block.sum(0, dtype=np.float64)
        zeros += (block == 0).sum(0)
        maximum = np.maximum(maximum, block.max(0))
    number = max(rows, 1)
    found = {"share": shares / number, "maximum": maximum, "mean": total / number, "zeros": zeros / number}
    return found, shares_of_means(classes, counts, sums / np.maximum(counts, 1)[:, None])


def _most_served(of_classes: ClassShares) -> np.ndarray:
    """[C], the class of each concept; -1 for dead ones."""
    portions = of_classes.portions
    if len(of_classes.classes) == 0:
        return np.full(portions.shape[1], -1)
    most = np.nan_to_num(portions, nan=-1.).argmax(0)
    return np.where(np.isnan(portions).all(0), -1, of_classes.classes[most])


def columns_of(found: Summary, trust: dict[str, np.ndarray] | None, meanings: dict[str, str]) -> tuple[
    list[Column], np.ndarray
]:
    """What the columns are, and their values [columns, C]: of the summary, and of a trust report of some concepts."""
    columns = [Column(name=name, meaning=meaning) for name, meaning in COLUMNS.items()]
    values = [found.columns[name] for name in COLUMNS]
    if trust is not None:
        for name in OF_TRUST:
            if name not in trust or not np.isfinite(np.asarray(trust[name], float)).any():
                continue
            column = np.full(len(values[0]), np.nan, np.float32)
            column[trust["concept"]] = trust[name]
            columns.append(Column(name=f"trust: {name}", meaning=meanings[name]))
            values.append(column)
    return columns, np.stack(values)
