"""Pages of samples, from a store alone."""
from __future__ import annotations

import numpy as np

from crp.explorer.documents import ConceptShare, SampleLayer, SamplePage
from crp.explorer.source import NotThereError, Source

MOST_CONCEPTS = 24


def sample_page(
    source: Source, sample: int, quantity: str, target: int | None, position: int | None, layer: int | None = None
) -> SamplePage:
    """What a store knows of a sample: its targets, its prediction, its strongest concepts in a layer or in each."""
    source.samples([sample])
    rows = _rows_of(source, sample, quantity)
    known = source.rows(quantity)
    targets = sorted(set(source.rows("relevance")["target"][_rows_of(source, sample, "relevance")].tolist()))
    positions = sorted(set(known["position"][rows].tolist())) if source.store.of_positions else []
    if target is not None and quantity == "relevance":
        rows = rows[known["target"][rows] == target]
        if len(rows) == 0:
            raise NotThereError(f"sample {sample} has no row of class {target}; it has {targets}")
    if positions:
        position = positions[-1] if position is None else position
        rows = rows[known["position"][rows] == position]
        if len(rows) == 0:
            raise NotThereError(f"sample {sample} has no row at position {position}")
    row = int(rows[0]) if len(rows) else None
    corpus = source.corpus
    return SamplePage(
        sample=sample, targets=[number for number in targets if number >= 0],
        target=-1 if row is None else int(known["target"][row]), positions=positions,
        position=-1 if row is None else int(known["position"][row]),
        prediction=-1 if row is None else int(known["prediction"][row]),
        layers=[] if row is None else [
            SampleLayer(layer=number, concepts=strongest(
                source, number, row_values(source, number, quantity, row), MOST_CONCEPTS if layer is not None else 12,
            ))
            for number in (range(len(source.store.layers)) if layer is None else [layer])
        ],
        tokens=[] if corpus is None else corpus.tokens(sample),
    )


def row_of(
    source: Source, sample: int, quantity: str, target: int | None = None, position: int | None = None
) -> int:
    """The row of a sample, of one of its targets and positions: by default the first target, and the last position.

    Raises
    ------
    NotThereError
        If there is none.
    """
    rows, known = _rows_of(source, source.samples([sample])[0], quantity), source.rows(quantity)
    if target is not None:
        rows = rows[known["target"][rows] == target]
    if source.store.of_positions and len(rows):
        rows = rows[known["position"][rows] == (known["position"][rows].max() if position is None else position)]
    if len(rows) == 0:
        raise NotThereError(f"the store has no such row of sample {sample}")
    return int(rows[0])


def _rows_of(source: Source, sample: int, quantity: str) -> np.ndarray:
    samples = source.rows(quantity)["sample"]
    return np.arange(*np.searchsorted(samples, [sample, sample + 1]))


def row_values(source: Source, number: int, quantity: str, row: int) -> np.ndarray:
    """[C] float32, raw values of a row."""
    return np.asarray(source.store.values(source.layer(number), quantity)[row:row + 1], np.float32)[0]


def strongest(source: Source, number: int, values: np.ndarray, most: int = MOST_CONCEPTS) -> list[ConceptShare]:
    """The concepts that hold most of a row [C], by absolute value; on ties, the lower first."""
    total = max(float(np.abs(values).sum(dtype=np.float64)), np.finfo(np.float32).tiny)
    order = np.argsort(-np.abs(values), kind="stable")[:most].tolist()
    names = source.names(number)
    return [
        ConceptShare(
            concept=i, value=values[i], share=values[i] / total, name=names[i][0].name if i in names else "",
        ) for i in order if values[i] != 0
    ]
