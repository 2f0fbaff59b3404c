"""Patterns: groups of samples to which a layer responds alike, found by clustering; neural activation patterns, NAP."""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from crp.analysis.clustering import Clustering, Space, _blocks, as_values, check_assigning
from crp.analysis.pattern_options import read_options
from crp.analysis.unit_statistics import UnitStatistics, typical_units, unit_statistics
from crp.model.arrays import as_array
from crp.model.inputs import list_tensors, map_tensors
from crp.model.samples import split_item, with_batch_axis
from crp.store.archive import archive_bytes, read_archive, write_archive
from crp.store.attached import read_attached, write_attached
from crp.store.folder import StoreError
from crp.store.reader import ReferenceStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KIND = "crp-patterns 1"
_PER_ROW = ("labels", "probability", "outlier_score", "samples")


@dataclass(frozen=True)
class Patterns:
    """Patterns of a layer: clusters of rows with similar values, the most persistent first.

    Attributes
    ----------
    labels : numpy.ndarray
        [N], the pattern of each row; -1 is noise.
    probability : numpy.ndarray
        [N], how firmly a row belongs to its pattern, from 0 to 1.
    outlier_score : numpy.ndarray
        [N], GLOSH outlier score from 0 to 1 (Campello et al., 2015).
    persistence : numpy.ndarray
        [P], how long each pattern lasts over the scales of density, descending.
    samples : numpy.ndarray
        [N], position of each row in the dataset.
    options : dict
        How the patterns were found; ``options["source"]`` says in which layer of which store.
    values : array or None
        [N, D], what was clustered. Not saved.

    References
    ----------
    A. Bäuerle, D. Jönsson, T. Ropinski (2022). Neural Activation Patterns (NAPs): Visual Explainability of Learned
    Concepts. arXiv:2206.10611.

    R. Campello, D. Moulavi, A. Zimek, J. Sander (2015). Hierarchical Density Estimates for Data Clustering,
    Visualization, and Outlier Detection. ACM TKDD 10(1).
    """

    labels: np.ndarray
    probability: np.ndarray
    outlier_score: np.ndarray
    persistence: np.ndarray
    samples: np.ndarray
    options: dict
    values: Any = field(repr=False)
    _space: Space = field(repr=False)
    _clustering: Clustering = field(repr=False)

    def __len__(self) -> int:
        """Number of patterns."""
        return len(self.persistence)

    def __repr__(self) -> str:
        noise = np.mean(self.labels < 0)
        return f"Patterns({len(self)} patterns of {len(self.labels)} rows, {noise:.0%} noise)"

    @property
    def sizes(self) -> np.ndarray:
        """[P], number of rows of each pattern."""
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self))

    def members(self, pattern: int) -> np.ndarray:
        """Rows of a pattern, ascending."""
        if not 0 <= pattern < len(self):
            raise IndexError(f"there is no pattern {pattern}: there are {len(self)}, numbered from 0")
        return np.flatnonzero(self.labels == pattern)

    def most_stable(self, pattern: int, n: int = 5) -> np.ndarray:
        """The ``n`` rows that belong to a pattern most firmly, the firmest first; on ties the lower row."""
        return self._by_probability(pattern)[:n]

    def least_stable(self, pattern: int, n: int = 5) -> np.ndarray:
        """The ``n`` rows that belong to a pattern least firmly, the least firm first."""
        return self._by_probability(pattern)[::-1][:n]

    def _by_probability(self, pattern: int) -> np.ndarray:
        members = self.members(pattern)
        return members[np.argsort(-self.probability[members], kind="stable")]

    def outliers(self, pattern: int, quantile: float = 0.95) -> np.ndarray:
        """Rows of a pattern whose outlier score is above a quantile of the pattern's, the most unusual first."""
        if not 0 <= quantile <= 1:
            raise ValueError(f"quantile is from 0 to 1, not {quantile}")
        members = self.members(pattern)
        scores = self.outlier_score[members]
        order = np.argsort(-scores, kind="stable")
        return members[order][scores[order] > np.quantile(scores, quantile)]

    def sample(self, pattern: int, fraction: float = 0.1, random_state: Any = None) -> np.ndarray:
        """Some rows of a pattern, ascending, drawn with their probabilities as weights.

        Parameters
        ----------
        pattern : int
        fraction : float, default 0.1
            Of the pattern's rows, rounded up.
        random_state : int, numpy.random.Generator or None
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction is above 0 and at most 1, not {fraction}")
        members = self.members(pattern)
        weights = self.probability[members] + 1e-12  # so that all can be drawn
        count = int(np.ceil(fraction * len(members)))
        random = np.random.default_rng(random_state)
        return np.sort(random.choice(members, count, replace=False, p=weights / weights.sum()))

    def statistics(self, pattern: int | None = None) -> UnitStatistics:
        """Range, mean, quartiles and whiskers of each unit over the rows of a pattern; over all rows with None."""
        rows = slice(None) if pattern is None else self.members(pattern)
        return unit_statistics(np.asarray(self._known_values()[rows], np.float64))

    def label_counts(self, targets: Any) -> tuple[np.ndarray, np.ndarray]:
        """How many rows of each class each pattern holds.

        Parameters
        ----------
        targets : array-like
            [N], class or other label of each row.

        Returns
        -------
        classes : numpy.ndarray
            [K], in order.
        counts : numpy.ndarray
            [P, K]
        """
        targets = as_array(targets)
        if targets.shape != self.labels.shape:
            raise ValueError(f"there are {len(self.labels)} rows, but targets has the shape {targets.shape}")
        classes, codes = np.unique(targets, return_inverse=True)
        counts = np.zeros((len(self), len(classes)), int)
        in_pattern = self.labels >= 0
        np.add.at(counts, (self.labels[in_pattern], codes[in_pattern]), 1)
        return classes, counts

    def average_image(self, pattern: int, dataset: Any, target_key: str = "labels") -> Any:
        """Mean of the inputs of a pattern's samples, each counted once.

        Parameters
        ----------
        pattern : int
        dataset : sequence
            ``dataset[i]`` gives (input, target), or a dict with the target under ``target_key``.
        target_key : str

        Returns
        -------
        torch.Tensor, tuple or dict
            As the dataset gives inputs, [...], without a batch axis.
        """
        samples = np.unique(self.samples[self.members(pattern)]).tolist()
        sums: list[torch.Tensor] = []
        for i in samples:
            inputs = with_batch_axis(split_item(dataset[i], target_key)[0])
            tensors = [tensor[0].double() for tensor in list_tensors(inputs)]
            sums = [total + tensor for total, tensor in zip(sums, tensors)] or tensors
        remaining = iter(sums)
        return map_tensors(lambda _: (next(remaining) / len(samples)).float(), inputs)

    def assign(self, values: Any) -> tuple[np.ndarray, np.ndarray]:
        """The patterns to which other values belong.

        Each goes to the pattern of its nearest neighbour in mutual reachability, unless it joins the neighbour's
        cluster outside any pattern (``approximate_predict`` of the hdbscan package).

        Parameters
        ----------
        values : array-like
            [M, D], with the units that were clustered.

        Returns
        -------
        labels : numpy.ndarray
            [M], -1 for noise.
        probability : numpy.ndarray
            [M]
        """
        values = as_values(values)
        units = len(self._space.scale)
        if values.shape[1] != units:
            raise ValueError(f"the patterns are of {units} units, but values has the shape {tuple(values.shape)}")
        check_assigning(self.options["epsilon"])
        parts = [self._clustering.of(self._space.points(block))[:2] for block in _blocks(values)]
        labels, probability = (np.concatenate(part) for part in zip(*parts))
        return labels, probability

    def _known_values(self) -> Any:
        if self.values is None:
            raise ValueError("the values are not saved with the patterns: give them, Patterns.load(path, values)")
        return self.values

    def save(self, path: str | Path | ReferenceStore) -> None:
        """Write everything but ``values`` to a file (.npz, without pickle).

        Parameters
        ----------
        path : str, Path or crp.store.ReferenceStore
            A store keeps the patterns of its layers beside the matrices.

        Raises
        ------
        ValueError
            If the patterns are of something else than a layer of the store.
        """
        if isinstance(path, ReferenceStore):
            self._save_in_store(path)
            return
        write_archive(path, _KIND, *self._contents())

    def _contents(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Settings and arrays of a file."""
        space = {f"space_{name}": value for name, value in vars(self._space).items() if value is not None}
        arrays = {name: getattr(self, name) for name in (*_PER_ROW, "persistence")}
        return {"options": self.options}, {"points": self._clustering.points, **arrays, **space}

    def _save_in_store(self, store: ReferenceStore) -> None:
        source = self.options["source"] or {}
        if source.get("store") != store.identity():
            raise ValueError(f"these patterns are not of a layer of {store.path}: save them elsewhere")
        write_attached(store, store.attached_stem(source["layer"], source["quantity"]),
                       archive_bytes(_KIND, *self._contents()))

    @classmethod
    def load(
        cls, path: str | Path | ReferenceStore, values: Any = None, *, layer: str | None = None,
        quantity: str = "activation",
    ) -> Patterns:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : str, Path or crp.store.ReferenceStore
        values : array-like, optional
            [N, D], what was clustered; needed for statistics. A store has them.
        layer : str, optional
            A layer of the store; needed there, and only there.
        quantity : {"activation", "relevance"}
            Of the store.

        Raises
        ------
        ValueError
            If the file holds no patterns, or those of other values.
        StoreError
            If the store holds none of this layer, or they were found before it was made anew.
        """
        if isinstance(path, ReferenceStore):
            if layer is None or values is not None:
                raise TypeError("patterns in a store go by its layers: Patterns.load(store, layer=..., quantity=...)")
            return cls._load_from_store(path, layer, quantity)
        if layer is not None:
            raise TypeError(f"layer={layer!r} is a layer of a store, but {path} is a file")

        patterns = read_archive(path, _KIND, cls._made_of)
        if values is None:
            return patterns
        values, expected = as_values(values), (len(patterns.labels), len(patterns._space.scale))
        if tuple(values.shape) != expected:
            raise ValueError(f"{path} holds patterns of values of the shape {expected}, not {tuple(values.shape)}")
        return replace(patterns, values=values)

    @classmethod
    def _made_of(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> Patterns:
        """What a file holds; a ValueError names what cannot be."""
        options = read_options(settings["options"])
        space = Space(arrays["space_scale"], arrays["space_mean"], arrays.get("space_axes"))
        patterns = cls(
            **{name: arrays[name] for name in (*_PER_ROW, "persistence")}, options=options.model_dump(), values=None,
            _space=space, _clustering=Clustering(arrays["points"], options.of_hdbscan),
        )
        patterns._check_arrays()
        return patterns

    def _check_arrays(self) -> None:
        """Raise a ValueError for arrays of other types and shapes, or with numbers that cannot be."""
        rows, units = len(self.labels), len(self._space.scale)
        axes, points = self._space.axes, self._clustering.points
        coordinates = units if axes is None else len(axes)
        expected: dict[str, tuple[Any, str, tuple[int, ...]]] = {
            "labels": (self.labels, "i", (rows,)), "samples": (self.samples, "i", (rows,)),
            "probability": (self.probability, "f", (rows,)), "outlier_score": (self.outlier_score, "f", (rows,)),
            "persistence": (self.persistence, "f", (len(self),)), "space_scale": (self._space.scale, "f", (units,)),
            "space_mean": (self._space.mean, "f", (units,)),
            "points": (points, "f", (self.options["fit_samples"], coordinates)),
        }
        if axes is not None:
            expected["space_axes"] = axes, "f", (coordinates, units)
        for name, (array, kind, shape) in expected.items():
            if array.dtype.kind != kind or array.shape != shape:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, not of the shape {shape}")
        if rows == 0 or self.labels.min() < -1 or self.labels.max() >= len(self) or self.samples.min() < 0:
            raise ValueError("labels are patterns or -1, and samples are numbered from 0")
        if not all(np.isfinite(array).all() for array in (points, self.probability, self.outlier_score)):
            raise ValueError("points, probabilities and outlier scores are finite")

    @classmethod
    def _load_from_store(cls, store: ReferenceStore, layer: str, quantity: str) -> Patterns:
        how = f"find_patterns(store, {layer!r}, {quantity!r}).save(store)"
        found = read_attached(store, store.attached_stem(layer, quantity), _KIND, cls._made_of)
        if found is None:
            raise StoreError(f"{store.path} holds no patterns of the {quantity} of {layer!r}: find them with {how}")
        patterns, path = found
        if (patterns.options["source"] or {}).get("store") != store.identity():
            raise StoreError(f"{path} is of another sweep than the store holds: find the patterns again with {how}")
        values = store.values(layer, quantity)
        if values.shape != (len(patterns.labels), len(patterns._space.scale)):
            raise StoreError(f"{path} is damaged: its patterns are of other values than the store holds")
        return replace(patterns, values=values)

    def plot(self, targets: Any = None, most: int = 20, figsize: tuple[float, float] | None = None) -> Figure:
        """Draw how many rows of each class each pattern holds, as squares.

        Parameters
        ----------
        targets : array-like, optional
            [N], class or other label of each row; without it all rows are one class.
        most : int, default 20
            How many patterns, the most persistent first.
        figsize : tuple of float, optional
            In inches.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from crp.pictures.pattern_plots import draw_counts

        classes, counts = self.label_counts(np.full(len(self.labels), "rows") if targets is None else targets)
        return draw_counts(classes, counts[:most], self._title(min(most, len(self))), figsize)

    def plot_units(self, pattern: int, units: Any = None, figsize: tuple[float, float] | None = None) -> Figure:
        """Draw a box for each unit: the values of a pattern, and behind them those of all rows.

        Parameters
        ----------
        pattern : int
        units : list of int, optional
            By default the 20 whose mean in the pattern differs most from that of all rows, in interquartile ranges.
        figsize : tuple of float, optional
            In inches.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from crp.pictures.pattern_plots import draw_units

        own, everything = self.statistics(pattern), self.statistics()
        units = typical_units(own, everything)[:20] if units is None else np.asarray(units)
        source = self.options["source"]
        names = ("unit", "value") if source is None else (f"concept of {source['layer']}", source["quantity"])
        label = f"pattern {pattern} ({np.sum(self.labels == pattern)} rows)"
        return draw_units(own, everything, units, label, names, figsize)

    def plot_exemplars(
        self, dataset: Any, patterns: Any = None, n: int = 5, figsize: tuple[float, float] | None = None, *,
        target_key: str = "labels",
    ) -> Figure:
        """Draw patterns: the average of images, the most stable and the least stable samples.

        Parameters
        ----------
        dataset : sequence
            Gives (input, target), or a dict with the target under ``target_key``. Inputs that are no images have the
            pictures of their kind: see :func:`crp.image.vis_by_kind`.
        patterns : list of int, optional
            By default the five most persistent.
        n : int, default 5
            Samples of each kind.
        figsize : tuple of float, optional
            In inches.
        target_key : str

        Returns
        -------
        matplotlib.figure.Figure
        """
        from crp.pictures.kinds import is_image
        from crp.pictures.pattern_plots import draw_exemplars

        patterns = list(range(min(5, len(self))) if patterns is None else patterns)
        rows = []
        for pattern in patterns:
            stable, unstable = (
                [split_item(dataset[int(self.samples[row])], target_key)[0] for row in chosen]
                for chosen in (self.most_stable(pattern, n), self.least_stable(pattern, n)[::-1])
            )
            average = None
            if is_image(stable[0]):
                average = self.average_image(pattern, dataset, target_key)
            else:
                stable, unstable = ([with_batch_axis(sample) for sample in part] for part in (stable, unstable))
            rows.append((pattern, int(np.sum(self.labels == pattern)), average, stable, unstable))
        return draw_exemplars(rows, self._title(len(rows)), figsize)

    def _title(self, shown: int) -> str:
        """Of how many patterns a figure shows so many, and where they were found."""
        source, number = self.options["source"], f"{len(self)}" if shown == len(self) else f"{shown} of {len(self)}"
        where = "" if source is None else f" of the {source['quantity']} of {source['layer']}"
        return f"{number} patterns{where}; {np.mean(self.labels < 0):.0%} of {len(self.labels)} rows are in none"
