"""The result of a ranking: units in order, with their scores; drawn, saved and loaded."""
from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from crp.model.frames import import_pandas
from crp.neurons.held_out import HeldOut
from crp.store.archive import archive_bytes, read_archive, write_archive
from crp.store.attached import attached_stems, read_attached, write_attached
from crp.store.files import Quantity
from crp.store.folder import StoreError
from crp.store.reader import ReferenceStore
from crp.store.schema import Count, Index, Name, Number, Sha256

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from crp.neurons.values import UnitId

_KIND = "crp-ranking 1"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RankingSource(_Strict):
    """The store that was ranked."""

    store: Sha256
    quantity: Quantity


class _HeldOut(_Strict):
    score: Number
    lower: Number
    upper: Number
    chance: Number
    metric: Name


class _Settings(_Strict):
    """What a file says of a ranking beside its arrays."""

    method: Name
    options: dict[Name, None | bool | int | float | str | list[int | float | str | bool]]
    layers: Annotated[list[Name], Field(max_length=2 ** 12)]
    sizes: Annotated[list[Count], Field(min_length=1, max_length=2 ** 12)]
    classes: Annotated[list[bool | int | Name], Field(max_length=2 ** 20)]
    rows: Index
    left_out: Index
    held_out: _HeldOut | None
    source: RankingSource | None


@dataclass(frozen=True, eq=False)
class Ranking:
    """Units in order, the first the one that matters most.

    Attributes
    ----------
    method : str
        What they are ranked by.
    options : dict
        The options of the method.
    layers : list of str
        The layers that were ranked together; none for an array.
    sizes : list of int
        How many units each has.
    order : numpy.ndarray
        [U], numbers of the units, counted through all layers; on ties the lower comes first.
    scores : numpy.ndarray
        [U], in this order, in most methods descending; what they mean :func:`crp.neurons.rank` says.
    classes : list
        [K], what the labels tell apart; none for numbers and for methods that look at no labels.
    class_order, class_scores : numpy.ndarray
        [K, U], the same for each class.
    interval : numpy.ndarray or None
        [U, 2], bootstrap interval of 95 % of each score over the samples, in this order.
    held_out : HeldOut or None
        How good that which was fitted is on samples that it has not seen.
    constant : numpy.ndarray
        Numbers of the units that have the same value in all rows.
    rows, left_out : int
        How many rows were looked at, and how many had no label.
    details : dict
        What else a method found, array by array: see :func:`crp.neurons.rank`.
    source : RankingSource or None
        The store that was ranked.
    """

    method: str
    options: dict[str, Any]
    layers: list[str]
    sizes: list[int]
    order: np.ndarray = field(repr=False)
    scores: np.ndarray = field(repr=False)
    classes: list[Any]
    class_order: np.ndarray = field(repr=False)
    class_scores: np.ndarray = field(repr=False)
    interval: np.ndarray | None = field(repr=False)
    held_out: HeldOut | None
    constant: np.ndarray = field(repr=False)
    rows: int
    left_out: int
    details: dict[str, np.ndarray] = field(repr=False, default_factory=dict)
    source: RankingSource | None = field(repr=False, default=None)

    def __len__(self) -> int:
        """Number of units."""
        return len(self.order)

    def __repr__(self) -> str:
        of = f" of {', '.join(map(repr, self.layers))}" if self.layers else ""
        fitted = f", held out: {self.held_out}" if self.held_out else ""
        without = f", {self.left_out} rows without label" if self.left_out else ""
        constant = f", {len(self.constant)} constant" if len(self.constant) else ""
        return (
            f"Ranking({len(self)} units{of} by {self.method}, {self.rows} rows{without}{constant}; first: "
            f"{self.top(5)}{fitted})"
        )

    @property
    def units(self) -> list[UnitId]:
        """Ids of the units in order; pairs (layer, id) where there are several layers."""
        return self.ids(self.order)

    def ids(self, numbers: Any) -> list[UnitId]:
        """Ids of units that are numbered through all layers."""
        numbers = np.asarray(numbers, int)
        if len(self.sizes) == 1:
            return numbers.tolist()
        starts = np.cumsum([0, *self.sizes])
        layer = np.searchsorted(starts, numbers, side="right") - 1
        return [(self.layers[i], int(number - starts[i])) for i, number in zip(layer, numbers)]

    def top(self, k: int, target: Any = None) -> list[UnitId]:
        """Ids of the first ``k`` units, of all or for one class.

        Raises
        ------
        ValueError
            If there is no such class.
        """
        if k < 0:
            raise ValueError(f"k is not negative, as {k} is")
        return self.ids((self.order if target is None else self.class_order[self._place(target)])[:k])

    def _place(self, target: Any) -> int:
        if target not in self.classes:
            known = f"there are {self.classes}" if self.classes else f"a ranking by {self.method} has no classes here"
            raise ValueError(f"there is no class {target!r}; {known}")
        return self.classes.index(target)

    def by_layer(self, numbers: Any) -> dict[str, list[int]]:
        """Layer -> ids of those of some units that are in it; for layers that have none there is no entry."""
        starts = np.cumsum([0, *self.sizes])
        layer = np.searchsorted(starts, numbers, side="right") - 1
        names = self.layers or [""]
        return {
            names[i]: (np.asarray(numbers)[layer == i] - starts[i]).tolist() for i in np.unique(layer)
        }

    def to_frame(self) -> pandas.DataFrame:
        """A table with a row for each unit, in order. Needs pandas.

        Returns
        -------
        pandas.DataFrame
            With the columns layer (if there are any), unit, score, lower and upper (if there is an interval), and one
            for the scores of each class.
        """
        pandas = import_pandas()
        names = self.layers or [""]
        pairs = [(layer, unit) for layer, size in zip(names, self.sizes) for unit in range(size)]
        columns: dict[Any, Any] = {"layer": [pairs[i][0] for i in self.order]} if self.layers else {}
        columns |= {"unit": [pairs[i][1] for i in self.order], "score": self.scores}
        if self.interval is not None:
            columns |= {"lower": self.interval[:, 0], "upper": self.interval[:, 1]}
        for name, order, scores in zip(self.classes, self.class_order, self.class_scores):
            of_unit = np.empty(len(self))
            of_unit[order] = scores
            columns[name] = of_unit[self.order]
        return pandas.DataFrame(columns)

    def plot(self, k: int = 20, target: Any = None, figsize: tuple[float, float] | None = None) -> Figure:
        """Draw the scores of the first units, with their intervals.

        Parameters
        ----------
        k : int, default 20
            How many units.
        target : optional
            A class, whose own ranking to draw.
        figsize : tuple of float, optional
            In inches.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from crp.pictures.ranking_plots import draw_ranking

        scores = self.scores if target is None else self.class_scores[self._place(target)]
        names = [str(unit) if isinstance(unit, int) else f"{unit[0]} {unit[1]}" for unit in self.top(k, target)]
        shown = self.interval[:k] if self.interval is not None and target is None else None
        whose = "" if target is None else f" for {target!r}"
        of = f" of {self.layers[0]}" if len(self.layers) == 1 else ""
        title = f"{len(names)} of {len(self)} units{of}, by {self.method.replace('_', ' ')}{whose}"
        if self.held_out is not None:
            title += f"\nheld out: {self.held_out}"
        return draw_ranking(names, scores[:k], shown, title, figsize, f"score: {self.method.replace('_', ' ')}")

    def save(self, path: str | Path | ReferenceStore, name: str | None = None) -> None:
        """Write the ranking to a file, in the form of .npz, without pickle.

        Parameters
        ----------
        path : str, Path or crp.store.ReferenceStore
            A store keeps the rankings of its layers beside the matrices.
        name : str, optional
            What the ranking is called in a store; needed for rankings by labels of your own.

        Raises
        ------
        ValueError
            If the ranking is of something else than the store.
        """
        if not isinstance(path, ReferenceStore):
            if name is not None:
                raise TypeError(f"name={name!r} is of rankings in a store, but {path} is a file")
            write_archive(path, _KIND, *self._contents())
            return
        if self.source is None or self.source.store != path.identity():
            raise ValueError(f"this ranking is not of {path.path}: save it elsewhere")
        if self.options.get("labels") == "given" and name is None:
            raise ValueError("this ranking is by labels of your own: give it a name, .save(store, 'loops')")
        stem = _stem(path, self.method, self.layers, self.source.quantity, name)
        write_attached(path, stem, archive_bytes(_KIND, *self._contents()))

    def _contents(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        settings = {
            "method": self.method, "options": self.options, "layers": self.layers, "sizes": self.sizes,
            "classes": self.classes, "rows": self.rows, "left_out": self.left_out,
            "held_out": self.held_out and self.held_out._asdict(),
            "source": self.source and self.source.model_dump(),
        }
        arrays = {
            "order": self.order, "scores": self.scores, "class_order": self.class_order,
            "class_scores": self.class_scores, "constant": self.constant,
        }
        if self.interval is not None:
            arrays["interval"] = self.interval
        return settings, arrays | {f"detail_{name}": array for name, array in self.details.items()}

    @classmethod
    def load(
        cls, path: str | Path | ReferenceStore, method: str | None = None, *, layers: str | list[str] | None = None,
        quantity: str | None = None, name: str | None = None,
    ) -> Ranking:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : str, Path or crp.store.ReferenceStore
        method : str, optional
            Of the ranking in a store; needed there, and only there.
        layers : str or list of str, optional
            Of the ranking in a store; by default all.
        quantity : {"activation", "relevance"}, optional
            Of the ranking in a store; by default that which ``method`` looks at.
        name : str, optional
            That it was given in the store.

        Raises
        ------
        ValueError
            If the file holds no ranking.
        StoreError
            If the store holds none such, or one of a sweep that it does not hold any more.
        """
        if not isinstance(path, ReferenceStore):
            if (method, layers, quantity, name) != (None,) * 4:
                raise TypeError(f"method, layers and quantity are of rankings in a store, but {path} is a file")
            return read_archive(path, _KIND, cls._made_of)
        if method is None:
            raise TypeError("a store holds rankings by method: Ranking.load(store, 'relevance', layers=...)")
        names = path.layers if layers is None else [layers] if isinstance(layers, str) else list(layers)
        quantity = quantity or default_quantity(method)
        how = f"rank(store, by={method!r}, layers={names!r}, quantity={quantity!r}).save(store)"
        if name is not None:
            how = f"{how[:-1]}, {name!r})"
        found = read_attached(path, _stem(path, method, names, quantity, name), _KIND, cls._made_of)
        if found is None:
            raise StoreError(f"{path.path} holds no such ranking: make it with {how}")
        ranking, file_path = found
        if ranking.source is None or ranking.source.store != path.identity():
            raise StoreError(f"{file_path} is of another sweep than the store holds: make it again with {how}")
        return ranking

    @classmethod
    def kept(cls, store: ReferenceStore) -> dict[str, Ranking]:
        """All rankings that a store keeps of its sweep, by what the names of their files begin with.

        Raises
        ------
        StoreError
            If a file is damaged.
        """
        stems = attached_stems(store, "ranking.")
        found = {stem: read_attached(store, stem, _KIND, cls._made_of) for stem in stems}
        return {
            stem: kept[0] for stem, kept in found.items()
            if kept is not None and kept[0].source is not None and kept[0].source.store == store.identity()
        }

    @classmethod
    def _made_of(cls, settings: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Ranking:
        """What a file holds; a ValueError names what cannot be."""
        said = _Settings.model_validate(settings)
        units, classes = sum(said.sizes), len(said.classes)
        if len(said.sizes) != max(len(said.layers), 1):
            raise ValueError("each layer has a number of units")
        expected = {
            "order": ("i", (units,)), "scores": ("f", (units,)), "class_order": ("i", (classes, units)),
            "class_scores": ("f", (classes, units)), "interval": ("f", (units, 2)),
        }
        for name, (kind, shape) in expected.items():
            array = arrays.get(name)
            if array is None and name == "interval":
                continue
            if array is None or array.dtype.kind != kind or array.shape != shape:
                raise ValueError(f"{name} is not of the shape {shape}")
        for order in (arrays["order"], *arrays["class_order"]):
            if not np.array_equal(np.sort(order), np.arange(len(order))):
                raise ValueError("an order holds each unit once")
        constant = arrays["constant"]
        if constant.ndim != 1 or constant.dtype.kind != "i" or not np.isin(constant, np.arange(units)).all():
            raise ValueError("constant holds numbers of units")
        details = {name.removeprefix("detail_"): array for name, array in arrays.items() if name.startswith("detail_")}
        held_out = None if said.held_out is None else HeldOut(**said.held_out.model_dump())
        return cls(
            said.method, said.options, said.layers, said.sizes, arrays["order"], arrays["scores"], said.classes,
            arrays["class_order"], arrays["class_scores"], arrays.get("interval"),
            held_out, constant, said.rows, said.left_out, details, said.source,
        )


def default_quantity(method: str) -> str:
    """What a ranking of a store looks at if nothing else is asked for."""
    return "relevance" if method == "relevance" else "activation"


def _stem(store: ReferenceStore, method: str, layers: list[str], quantity: str, name: str | None) -> str:
    """What the names of the files begin with that keep a ranking."""
    keys = "\n".join([*(store.attached_stem(layer, quantity) for layer in layers), *([] if name is None else [name])])
    return f"ranking.{method}.{hashlib.sha256(keys.encode()).hexdigest()[:16]}"
