"""The result of checking a layer: a table with a line for each concept, and what holds of the layer."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from crp.model.frames import import_pandas
from crp.store.archive import archive_bytes, read_archive, write_archive
from crp.store.attached import read_attached, write_attached
from crp.store.folder import StoreError
from crp.store.reader import ReferenceStore
from crp.store.schema import Index, Name, Sha256

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

_KIND = "crp-trust 1"
COLUMNS = {
    "concept": "id",
    "share": "mean share of the layer's absolute relevance",
    "share_lower": "its bootstrap interval of 95 % over the samples of the store",
    "share_upper": "",
    "effect": "mean fall of the answer without the concept, where it is most relevant",
    "effect_lower": "its bootstrap interval of 95 %",
    "effect_upper": "",
    "effect_control": "the same without another concept, drawn at random",
    "randomised": "correlation of its shares over samples with those after the weights above were drawn anew",
    "noise": "correlation of its shares over samples with those of inputs with small noise",
    "references": "cosine between the references that two halves of the samples give",
    "references_control": "cosine between references and samples drawn at random",
    "purity": "portion of its relevance that its class has",
    "serves": "that class; -1 for none",
    "entropy": "of the portions of the classes: 0 for one, 1 for all alike",
    "sparsity": "how few samples hold its activation: 0 for always the same, 1 for a single sample",
    "silent": "share of the samples at which it is not active",
    "peak": "largest activation over the mean one",
    "nearest": "the concept that is active most like it; -1 for none",
    "similarity": "correlation with the one that is most alike",
    "dead": "whether it is never active or never relevant",
    "duplicate": "whether another concept does the same",
    "clarity": "mean cosine between embeddings of its references",
    "redundancy": "cosine between its mean embedding and the nearest one of another concept of the table",
    "polysemanticity": "one minus the cosine between two groups of its references",
}
"""Column -> what it says, in units of 1 where nothing else is said; NaN stands for what could not be measured."""
GATES = ("closed", "faithful", "sane", "stable")


def is_clear_effect(line: Mapping[str, Any]) -> bool:
    """Whether the interval of an effect lies whole beyond zero and beyond the effect of a concept at random.

    Parameters
    ----------
    line : mapping
        Columns of :data:`COLUMNS` -> what they say of one concept.
    """
    control = line["effect_control"]
    return bool(line["effect_lower"] > max(0, control) or line["effect_upper"] < min(0, control))


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Check(_Strict):
    """What holds of a layer.

    Attributes
    ----------
    name : str
        "closed", "faithful", "sane", "stable" or "clear".
    holds : bool or None
        None where there is nothing to decide.
    score : float
        0 to 1; NaN where it could not be measured.
    value, lower, upper : float
        What was measured, with its interval of 95 %, if there is one.
    control : float
        The same at random.
    sentence : str
    """

    name: Name
    holds: bool | None
    score: float
    value: float
    lower: float
    upper: float
    control: float
    sentence: Annotated[str, Field(max_length=4096)]


class _Settings(_Strict):
    """What a file says of a report beside its arrays."""

    layer: Name
    checks: Annotated[list[Check], Field(max_length=16)]
    sentences: Annotated[list[Annotated[str, Field(max_length=4096)]], Field(max_length=2 ** 20)]
    options: dict[Name, None | bool | int | float | str]
    rows: Index
    source: Sha256


@dataclass(frozen=True, eq=False)
class TrustReport:
    """Whether a layer's concepts can be trusted, and each of them.

    Attributes
    ----------
    layer : str
    columns : dict
        Name -> [concepts], see :data:`crp.trust.COLUMNS`; ``columns["concept"]`` has the ids.
    sentences : list of str
        What there is to say of each concept.
    checks : list of Check
        "closed", "faithful", "sane", "stable" and "clear", of the layer as a whole.
    curves : dict
        ``fraction`` [S], and answers [S] as concepts are removed and inserted: ``removed_relevance``,
        ``inserted_relevance``, the same for activation, and ``random`` [orders, S]; in units of what all concepts
        change in an answer, on average, and 0 for none of them.
    rows : int
        At how many rows (sample, target) the model was run.
    options : dict
    source : str
        Identity of the sweep.
    """

    layer: str
    columns: dict[str, np.ndarray] = field(repr=False)
    sentences: list[str] = field(repr=False)
    checks: list[Check]
    curves: dict[str, np.ndarray] = field(repr=False)
    rows: int
    options: dict[str, Any]
    source: str = field(repr=False)

    def __len__(self) -> int:
        """Number of concepts."""
        return len(self.columns["concept"])

    def __getitem__(self, column: str) -> np.ndarray:
        """A column of the table."""
        if column not in self.columns:
            raise KeyError(f"no column {column!r}; there are {', '.join(self.columns)}")
        return self.columns[column]

    def check(self, name: str) -> Check:
        """What holds of the layer in one respect."""
        found = [check for check in self.checks if check.name == name]
        if not found:
            raise KeyError(f"no check {name!r}; there are {', '.join(check.name for check in self.checks)}")
        return found[0]

    @property
    def score(self) -> float:
        """How far the layer can be trusted, from 0 to 1: to order reports by, not to stand for them.

        The mean of the scores of "closed", "faithful", "sane" and "stable", in this order, where each counts only if
        all before it hold: what relevance is faithful to means nothing where relevance is lost on its way. What could
        not be measured is left out.
        """
        scores, trusted = [], True
        for name in GATES:
            check = self.check(name)
            if not np.isnan(check.score):
                scores.append(check.score * trusted)
            trusted = trusted and check.holds is not False
        return float(np.mean(scores)) if scores else float("nan")

    @property
    def holds(self) -> bool:
        """Whether all checks of the layer hold that could be made."""
        return all(self.check(name).holds is not False for name in GATES)

    def __str__(self) -> str:
        failed = [check.name for check in self.checks if check.holds is False]
        verdict = f"not {' and not '.join(failed)}" if failed else "holds in all that was checked"
        rows = f"{self.rows} {'held-out rows' if self.options.get('held_out') else 'rows of the sweep'}"
        lines = [f"Layer {self.layer!r}, {len(self)} concepts, {rows}: {verdict}."]
        lines += [f"  {check.name:9s}{_MARKS[check.holds]} {check.sentence}" for check in self.checks]
        first = self.order("share")[:3]
        return "\n".join([*lines, *(f"  {self.sentences[i]}" for i in first)])

    __repr__ = __str__

    def order(self, by: str = "share", ascending: bool = False) -> np.ndarray:
        """Lines of the table in the order of a column; what could not be measured comes last."""
        values = np.asarray(self[by], np.float64)
        return np.argsort(np.where(np.isnan(values), np.inf, values if ascending else -values), kind="stable")

    def sentence(self, concept: int) -> str:
        """What there is to say of a concept.

        Raises
        ------
        KeyError
            If it was not checked.
        """
        place = np.flatnonzero(self.columns["concept"] == concept)
        if not len(place):
            raise KeyError(f"concept {concept} was not checked; there are {self.columns['concept'].tolist()[:20]}")
        return self.sentences[int(place[0])]

    def to_frame(self) -> pandas.DataFrame:
        """The table, with the sentences. Needs pandas.

        Returns
        -------
        pandas.DataFrame
            Indexed by concept.
        """
        return import_pandas().DataFrame({**self.columns, "sentence": self.sentences}).set_index("concept")

    def plot(self, figsize: tuple[float, float] | None = None) -> Figure:
        """Draw what was measured of the layer and of its concepts.

        Parameters
        ----------
        figsize : tuple of float, optional
            In inches.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from crp.pictures.trust_plots import draw_trust

        verdicts = [(check.name, check.holds, check.score) for check in self.checks]
        return draw_trust(self.layer, verdicts, self.curves, self.columns, figsize)

    def save(self, path: str | Path | ReferenceStore) -> None:
        """Write the report to a file, in the form of .npz, without pickle; a store keeps it beside the matrices.

        Parameters
        ----------
        path : str, Path or crp.store.ReferenceStore

        Raises
        ------
        ValueError
            If the report is of another sweep than the store holds.
        """
        settings = {
            "layer": self.layer, "checks": [check.model_dump() for check in self.checks], "sentences": self.sentences,
            "options": self.options, "rows": self.rows, "source": self.source,
        }
        arrays = self.columns | {f"curve_{name}": curve for name, curve in self.curves.items()}
        if not isinstance(path, ReferenceStore):
            write_archive(path, _KIND, settings, arrays)
            return
        if self.source != path.identity():
            raise ValueError(f"this report is not of {path.path}: save it elsewhere")
        write_attached(path, stem(path, self.layer), archive_bytes(_KIND, settings, arrays))

    @classmethod
    def load(cls, path: str | Path | ReferenceStore, layer: str | None = None) -> TrustReport:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : str, Path or crp.store.ReferenceStore
        layer : str, optional
            Of the store; needed there, and only there.

        Raises
        ------
        ValueError
            If the file holds no report.
        StoreError
            If the store holds none of this layer, or one of a sweep that it does not hold any more.
        """
        if not isinstance(path, ReferenceStore):
            if layer is not None:
                raise TypeError(f"layer={layer!r} is of reports in a store, but {path} is a file")
            return read_archive(path, _KIND, cls._made_of)
        if layer is None:
            raise TypeError("a store holds reports by layer: TrustReport.load(store, layer)")
        found = read_attached(path, stem(path, layer), _KIND, cls._made_of)
        if found is None:
            raise StoreError(f"{path.path} holds no report of {layer!r}: make it with trust_report(fv, {layer!r})")
        report, file_path = found
        if report.source != path.identity():
            raise StoreError(f"{file_path} is of another sweep than the store holds: make it again with trust_report")
        return report

    @classmethod
    def _made_of(cls, settings: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> TrustReport:
        """What a file holds; a ValueError names what cannot be."""
        said = _Settings.model_validate(settings)
        columns = {name: arrays[name] for name in COLUMNS}
        curves = {name.removeprefix("curve_"): array for name, array in arrays.items() if name.startswith("curve_")}
        if set(arrays) != set(columns) | {f"curve_{name}" for name in curves}:
            raise ValueError("there are other arrays than the columns of a report and its curves")
        for name, column in columns.items():
            if column.shape != (len(said.sentences),) or column.dtype.kind not in "bif":
                raise ValueError(f"column {name!r} is not a number for each concept")
        for name, curve in curves.items():
            if curve.shape[-1:] != curves["fraction"].shape or curve.dtype.kind != "f":
                raise ValueError(f"curve {name!r} does not fit its fractions")
        if sorted(check.name for check in said.checks) != sorted((*GATES, "clear")):
            raise ValueError("a report has each check once")
        return cls(said.layer, columns, said.sentences, said.checks, curves, said.rows, said.options, said.source)


_MARKS = {True: " yes.", False: " NO.", None: ""}


def stem(store: ReferenceStore, layer: str) -> str:
    """What the names of the files begin with that keep it in a store."""
    return f"trust.{store.attached_stem(layer, 'relevance')}"
