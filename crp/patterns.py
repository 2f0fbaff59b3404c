"""Patterns: groups of samples to which a layer responds alike, found by clustering; neural activation patterns, NAP."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import hdbscan
import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import BallTree, KDTree

from crp.archive import read_archive, write_archive
from crp.arrays import as_array
from crp.inputs import list_tensors, map_tensors
from crp.records import describe_file, write_record
from crp.samples import split_item, with_batch_axis

FIT_ALL_UP_TO, FIT_SAMPLES, REDUCED_TO = 15_000, 10_000, 50
_KIND = "crp-patterns 1"
_PER_ROW = ("labels", "probability", "outlier_score", "samples")
_BLOCK = 4096
_METRICS_WITH_PARAMETERS = {"haversine", "mahalanobis", "minkowski", "p", "pyfunc", "seuclidean", "wminkowski"}


class UnitStatistics(NamedTuple):
    """What a box plot of each unit shows; every field is [D].

    Attributes
    ----------
    minimum, maximum, mean : numpy.ndarray
    q1, median, q3 : numpy.ndarray
        Quartiles.
    lower, upper : numpy.ndarray
        Whiskers: the most extreme values within 1.5 interquartile ranges of the quartiles.
    """

    minimum: np.ndarray
    maximum: np.ndarray
    mean: np.ndarray
    q1: np.ndarray
    median: np.ndarray
    q3: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


@dataclass(frozen=True)
class _Space:
    """How values become the points that are clustered: divided unit by unit, then projected on principal axes."""

    scale: np.ndarray
    mean: np.ndarray
    axes: np.ndarray | None = None

    def points(self, values: np.ndarray) -> np.ndarray:
        """Points [N, K] of values [N, D]."""
        scaled = np.asarray(values, np.float64) / self.scale
        return scaled if self.axes is None else (scaled - self.mean) @ self.axes.T


@dataclass(frozen=True)
class _Clustering:
    """HDBSCAN of some points, its clusters numbered by descending persistence.

    The fitted object of the hdbscan package is made when it is needed: what is saved are the points.
    """

    points: np.ndarray
    options: dict

    @cached_property
    def fitted(self) -> hdbscan.HDBSCAN:
        return hdbscan.HDBSCAN(**self.options, core_dist_n_jobs=1).fit(self.points)

    @cached_property
    def persistence(self) -> np.ndarray:
        """[P], descending."""
        return np.sort(np.asarray(self.fitted.cluster_persistence_, np.float64))[::-1]

    def renumbered(self, labels: np.ndarray) -> np.ndarray:
        """Numbers of the fitted object as ours."""
        order = np.argsort(-np.asarray(self.fitted.cluster_persistence_), kind="stable")
        return np.append(np.argsort(order), -1)[labels]

    @cached_property
    def predicting(self) -> hdbscan.HDBSCAN:
        """The fitted object, ready to assign other points."""
        self.fitted.generate_prediction_data()
        return self.fitted

    @cached_property
    def own(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels, probabilities and outlier scores of the points themselves."""
        fitted = self.fitted
        return self.renumbered(fitted.labels_), fitted.probabilities_, np.nan_to_num(fitted.outlier_scores_)

    def of(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels, probabilities and outlier scores of other points."""
        if not len(self.persistence) or not len(points):
            return np.full(len(points), -1), np.zeros(len(points)), np.zeros(len(points))
        labels, probability = hdbscan.approximate_predict(self.predicting, points)
        with np.errstate(invalid="ignore"):  # among equal points densities are infinite
            scores = hdbscan.approximate_predict_scores(self.predicting, points)
        found = self.renumbered(labels), probability, np.nan_to_num(scores)
        # what lies on a clustered point goes with it; hdbscan takes a cluster of equal points for noise
        equal = [self._row_of.get(point) for point in _keys(points)]
        places = [place for place, row in enumerate(equal) if row is not None]
        for result, own in zip(found, self.own):
            result[places] = own[[equal[place] for place in places]]
        return found

    @cached_property
    def _row_of(self) -> dict[bytes, int]:
        return {key: row for row, key in enumerate(_keys(self.points))}


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
    _space: _Space = field(repr=False)
    _clustering: _Clustering = field(repr=False)

    def __len__(self):
        """Number of patterns."""
        return len(self.persistence)

    def __repr__(self):
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

    def _by_probability(self, pattern):
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
        samples, sums = np.unique(self.samples[self.members(pattern)]).tolist(), None
        for i in samples:
            inputs = with_batch_axis(split_item(dataset[i], target_key)[0])
            tensors = [tensor[0].double() for tensor in list_tensors(inputs)]
            sums = tensors if sums is None else [total + tensor for total, tensor in zip(sums, tensors)]
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
        _check_assigning(self.options["epsilon"])
        parts = [self._clustering.of(self._space.points(block))[:2] for block in _blocks(values)]
        labels, probability = (np.concatenate(part) for part in zip(*parts))
        return labels, probability

    def _known_values(self):
        if self.values is None:
            raise ValueError("the values are not saved with the patterns: give them, Patterns.load(path, values)")
        return self.values

    def save(self, path: str | Path) -> None:
        """Write everything but ``values`` to a file (.npz, without pickle)."""
        space = {f"space_{name}": value for name, value in vars(self._space).items() if value is not None}
        arrays = {name: getattr(self, name) for name in (*_PER_ROW, "persistence")}
        settings = {"options": self.options, "hdbscan": self._clustering.options}
        write_archive(path, _KIND, settings, {"points": self._clustering.points, **arrays, **space})

    @classmethod
    def load(cls, path: str | Path, values: Any = None) -> Patterns:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : str or Path
        values : array-like, optional
            [N, D], what was clustered; needed for statistics.

        Raises
        ------
        ValueError
            If the file holds no patterns, or those of other values.
        """
        def make(settings, arrays):
            space = _Space(arrays["space_scale"], arrays["space_mean"], arrays.get("space_axes"))
            return cls(
                **{name: arrays[name] for name in (*_PER_ROW, "persistence")}, options=settings["options"], values=None,
                _space=space, _clustering=_Clustering(arrays["points"], settings["hdbscan"]),
            )

        patterns = read_archive(path, _KIND, make)
        if values is None:
            return patterns
        values, expected = as_values(values), (len(patterns.labels), len(patterns._space.scale))
        if tuple(values.shape) != expected:
            raise ValueError(f"{path} holds patterns of values of the shape {expected}, not {tuple(values.shape)}")
        return replace(patterns, values=values)

    def plot(self, targets: Any = None, most: int = 20, figsize: tuple[float, float] | None = None):
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
        from crp.pattern_plots import draw_counts

        classes, counts = self.label_counts(np.full(len(self.labels), "rows") if targets is None else targets)
        return draw_counts(classes, counts[:most], figsize)

    def plot_units(self, pattern: int, units: Any = None, figsize: tuple[float, float] | None = None):
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
        from crp.pattern_plots import draw_units

        own, everything = self.statistics(pattern), self.statistics()
        units = typical_units(own, everything)[:20] if units is None else np.asarray(units)
        return draw_units(own, everything, units, f"pattern {pattern}", figsize)

    def plot_exemplars(
        self, dataset: Any, patterns: Any = None, n: int = 5, figsize: tuple[float, float] | None = None, *,
        target_key: str = "labels",
    ):
        """Draw patterns by images: their average, their most stable and their least stable samples.

        Parameters
        ----------
        dataset : sequence
            Gives (image, target), or a dict with the target under ``target_key``; images are [C, H, W] or [H, W].
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
        from crp.pattern_plots import draw_exemplars

        patterns = range(min(5, len(self))) if patterns is None else patterns
        rows = []
        for pattern in patterns:
            stable, unstable = (
                [split_item(dataset[int(self.samples[row])], target_key)[0] for row in chosen]
                for chosen in (self.most_stable(pattern, n), self.least_stable(pattern, n)[::-1])
            )
            rows.append((f"{pattern}", self.average_image(pattern, dataset, target_key), stable, unstable))
        return draw_exemplars(rows, figsize)


def find_patterns(
    values: Any, *, min_pattern_size: int = 5, min_samples: int = 5, epsilon: float = 0.0, method: str = "leaf",
    metric: str = "euclidean", normalize: bool | str = True, reduce: int | bool | None = None,
    fit_samples: int | None = None, random_state: Any = None,
) -> Patterns:
    """Cluster the rows of a matrix: samples by their values of the units or concepts of a layer.

    Clusters are those of HDBSCAN as the hdbscan package defines it, with persistence, GLOSH outlier scores and
    assignment of new rows. Up to 15,000 rows are clustered as they are. Of more, 10,000 drawn at random are, reduced
    to 50 principal components where there are more units; the others are assigned as :meth:`Patterns.assign` does, so
    patterns of very few rows may be missed. ``reduce`` and ``fit_samples`` change that.

    Parameters
    ----------
    values : array-like, or (store, layer, quantity)
        [N, D]. Of a :class:`crp.store.ReferenceStore`, the raw values of a layer's concepts; ``quantity`` is
        "activation" or "relevance", with a row per sample or per (sample, target).
    min_pattern_size : int, default 5
        Rows that make a pattern (``min_cluster_size``).
    min_samples : int, default 5
        Neighbours that make a row a core of its surroundings; more call more rows noise.
    epsilon : float, default 0
        Patterns nearer to each other than this are joined (``cluster_selection_epsilon``).
    method : {"leaf", "eom"}
        Which clusters of the hierarchy are patterns: the finest, or those that last longest (excess of mass).
    metric : str, default "euclidean"
    normalize : bool or "mean_std", default True
        Divide each unit by its largest absolute value over the rows; units that are zero stay zero. "mean_std" is for
        values whose first half are means and whose second half are standard deviations of the same units: deviations
        are divided by the square root of the mean's largest absolute value.
    reduce : int or bool, optional
        Number of principal components to keep before clustering; False for none, True for 50.
    fit_samples : int, optional
        How many rows to cluster; the others are assigned.
    random_state : int, numpy.random.Generator or None
        Draws these rows.

    Returns
    -------
    Patterns

    Examples
    --------
    >>> import numpy as np
    >>> values = np.random.default_rng(0).normal(0, .05, (60, 2)) + np.repeat([[0., 1], [1, 0], [1, 1]], 20, 0)
    >>> patterns = find_patterns(values, min_pattern_size=10)
    >>> len(patterns), patterns.sizes.sum() > 50
    (3, np.True_)

    References
    ----------
    R. Campello, D. Moulavi, J. Sander (2013). Density-Based Clustering Based on Hierarchical Density Estimates. PAKDD.
    """
    values, samples, source = _rows_to_cluster(values)
    count, units = values.shape
    _check_options(min_pattern_size, min_samples, epsilon, method, metric, normalize)
    if count <= max(min_samples, min_pattern_size):
        raise ValueError(f"{count} rows are too few for min_samples={min_samples}, min_pattern_size={min_pattern_size}")
    fitted = fit_samples
    if fitted is None:
        fitted = count if count <= FIT_ALL_UP_TO else FIT_SAMPLES
    if fitted <= max(min_samples, min_pattern_size):
        raise ValueError(f"fit_samples={fit_samples} is too few for min_samples={min_samples}, "
                         f"min_pattern_size={min_pattern_size}")
    is_partial = fitted < count
    if is_partial:
        _check_assigning(epsilon)
    components = _number_of_components(reduce, units, min(fitted, count), is_large=count > FIT_ALL_UP_TO)
    chosen = np.arange(count)
    if is_partial:
        chosen = np.sort(np.random.default_rng(random_state).choice(count, fitted, replace=False))
    space = _fit_space(values, chosen, normalize, components)
    clustering = _Clustering(space.points(values[chosen]), {
        "min_cluster_size": min_pattern_size, "min_samples": min_samples, "metric": metric,
        "cluster_selection_epsilon": float(epsilon), "cluster_selection_method": method,
    })
    rest = np.setdiff1d(np.arange(count), chosen)
    labels, probability, outlier_score = (np.empty(count, dtype) for dtype in (int, float, float))
    for rows, found in ((chosen, clustering.own), *_assigned(clustering, space, values, rest)):
        labels[rows], probability[rows], outlier_score[rows] = found
    options = {
        "source": source, "min_pattern_size": min_pattern_size, "min_samples": min_samples, "epsilon": float(epsilon),
        "method": method, "metric": metric, "normalize": normalize, "reduce": components or False,
        "fit_samples": len(chosen),
    }
    return Patterns(
        labels, probability, outlier_score, clustering.persistence, samples, options, values, space, clustering
    )


def find_store_patterns(store: Any, layer: str, quantity: str, **options) -> Patterns:
    """Find patterns of a layer in a store and keep them there; ``store.patterns(layer, quantity)`` reads them."""
    patterns = find_patterns((store, layer, quantity), **options)
    path = store.patterns_path(layer, quantity)
    path.parent.mkdir(exist_ok=True)
    patterns.save(path)
    write_record(path.with_suffix(".json"), {"files": {path.name: describe_file(path)}})
    return patterns


def as_values(values: Any) -> Any:
    """Something [N, D] whose rows can be read, from an array or tensor; a store's matrix stays as it is.

    Raises
    ------
    ValueError
        If it has other axes.
    """
    if not (isinstance(values, np.ndarray) or hasattr(values, "blocks")):  # which matrices of stores have
        values = as_array(values)
    if len(values.shape) != 2 or 0 in values.shape:
        raise ValueError(
            f"values are [rows, units], not of the shape {tuple(values.shape)}: crp.concepts.aggregate reads them from "
            "a layer's tensor"
        )
    return values


def _keys(points: np.ndarray) -> Iterator[bytes]:
    """A key for each point [N, K]; equal points have the same."""
    return (point.tobytes() for point in points.astype(np.float32) + 0.)


def unit_statistics(values: np.ndarray) -> UnitStatistics:
    """Statistics of each column of values [N, D]."""
    q1, median, q3 = np.quantile(values, [.25, .5, .75], axis=0)
    reach = 1.5 * (q3 - q1)
    inside = (values >= q1 - reach) & (values <= q3 + reach)
    lower, upper = np.where(inside, values, np.inf).min(0), np.where(inside, values, -np.inf).max(0)
    return UnitStatistics(values.min(0), values.max(0), values.mean(0), q1, median, q3, lower, upper)


def typical_units(own: UnitStatistics, everything: UnitStatistics) -> np.ndarray:
    """Units by the distance of their mean in a pattern from that of all rows, in interquartile ranges, descending."""
    spread = everything.q3 - everything.q1
    spread = np.where(spread > 0, spread, np.maximum(everything.maximum - everything.minimum, 1e-30))
    return np.argsort(-np.abs(own.mean - everything.mean) / spread, kind="stable")


def _rows_to_cluster(values):
    """Matrix, samples of its rows, and where it comes from."""
    if isinstance(values, tuple) and len(values) == 3 and hasattr(values[0], "rows"):
        store, layer, quantity = values
        source = {"store": store.identity(), "layer": layer, "quantity": quantity}
        return store.values(layer, quantity), store.rows(quantity)["sample"], source
    values = as_values(values)
    return values, np.arange(len(values)), None


def _check_options(min_pattern_size, min_samples, epsilon, method, metric, normalize):
    if min_pattern_size < 2:
        raise ValueError(f"min_pattern_size is at least 2, not {min_pattern_size}")
    if min_samples < 1:
        raise ValueError(f"min_samples is at least 1, not {min_samples}")
    if epsilon < 0:
        raise ValueError(f"epsilon is not negative, as {epsilon} is")
    if method not in ("leaf", "eom"):
        raise ValueError(f"method is 'leaf' or 'eom', not {method!r}")
    metrics = sorted({*KDTree.valid_metrics, *BallTree.valid_metrics} - _METRICS_WITH_PARAMETERS)
    if metric not in metrics:
        raise ValueError(f"metric is one of {', '.join(metrics)}, not {metric!r}")
    if normalize not in (True, False, "mean_std"):
        raise ValueError(f"normalize is True, False or 'mean_std', not {normalize!r}")


def _check_assigning(epsilon):
    if epsilon > 0:
        raise ValueError("hdbscan does not assign rows to patterns that epsilon has joined: take epsilon=0, or cluster "
                         "all rows with fit_samples=len(values)")


def _number_of_components(reduce, units, rows, is_large):
    """How many principal components to keep; None for all units as they are."""
    if reduce is None:
        reduce = is_large and units > REDUCED_TO
    if reduce is False:
        return None
    components = min(REDUCED_TO, units, rows) if reduce is True else reduce
    if not 1 <= components <= min(units, rows):
        raise ValueError(f"reduce is from 1 to {min(units, rows)} for {rows} rows of {units} units, not {reduce}")
    return components


def _blocks(values: Any) -> Iterator[np.ndarray]:
    for first in range(0, values.shape[0], _BLOCK):
        yield np.asarray(values[first:first + _BLOCK])


def _fit_space(values, rows, normalize, components) -> _Space:
    largest = np.zeros(values.shape[1])
    for block in _blocks(values):
        np.maximum(largest, np.abs(block).max(0), out=largest)
    if not np.isfinite(largest).all():
        raise ValueError(f"values hold NaN or infinite numbers, as in unit {int(np.argmin(np.isfinite(largest)))}")
    scale = np.where(largest > np.finfo(float).tiny, largest, np.inf) if normalize else np.ones_like(largest)
    if normalize == "mean_std":
        if len(scale) % 2:
            raise ValueError(f"normalize='mean_std' needs as many deviations as means, not {len(scale)} units")
        means = scale[:len(scale) // 2]
        scale = np.concatenate([means, np.sqrt(means)])
    space = _Space(scale, np.zeros_like(scale))
    if components is None:
        return space
    pca = PCA(components, svd_solver="covariance_eigh").fit(space.points(np.asarray(values[rows])))
    return _Space(scale, pca.mean_, pca.components_)


def _assigned(clustering, space, values, rows) -> Iterator[tuple[np.ndarray, tuple]]:
    for first in range(0, len(rows), _BLOCK):
        part = rows[first:first + _BLOCK]
        yield part, clustering.of(space.points(np.asarray(values[part])))
