"""Finding patterns: which rows are clustered, of which units, and how the others are assigned."""
from __future__ import annotations

from typing import Any, cast

import numpy as np

from crp.analysis.clustering import Clustering, as_values, assigned, check_assigning, fit_space
from crp.analysis.pattern_options import PatternOptions, PatternSource, check_options
from crp.analysis.patterns import Patterns
from crp.store.files import Quantity
from crp.store.reader import ReferenceStore

FIT_ALL_UP_TO, FIT_SAMPLES, REDUCED_TO = 15_000, 10_000, 50


def find_patterns(
    values: Any, layer: str | None = None, quantity: str = "activation", *, min_pattern_size: int = 5,
    min_samples: int = 5, epsilon: float = 0.0, method: str = "leaf", metric: str = "euclidean",
    normalize: bool | str = True, reduce: int | bool | None = None,
    fit_samples: int | None = None, random_state: Any = None,
) -> Patterns:
    """Cluster the rows of a matrix: samples by their values of the units or concepts of a layer.

    Clusters are those of HDBSCAN as the hdbscan package defines it, with persistence, GLOSH outlier scores and
    assignment of new rows. Up to 15,000 rows are clustered as they are. Of more, 10,000 drawn at random are, reduced
    to 50 principal components where there are more units; the others are assigned as :meth:`Patterns.assign` does, so
    patterns of very few rows may be missed. ``reduce`` and ``fit_samples`` change that.

    Parameters
    ----------
    values : array-like or crp.store.ReferenceStore
        [N, D]. Of a store, the raw values of a layer's concepts.
    layer : str, optional
        A layer of the store; needed there, and only there.
    quantity : {"activation", "relevance"}
        Of the store, with a row per sample or per (sample, target).
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
    values, samples, source = _rows_to_cluster(values, layer, quantity)
    count, units = values.shape
    check_options(min_pattern_size, min_samples, epsilon, method, metric, normalize)
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
        check_assigning(epsilon)
    components = _number_of_components(reduce, units, min(fitted, count), is_large=count > FIT_ALL_UP_TO)
    chosen = np.arange(count)
    if is_partial:
        chosen = np.sort(np.random.default_rng(random_state).choice(count, fitted, replace=False))
    space = fit_space(values, chosen, normalize, components)
    options = PatternOptions(
        source=source, min_pattern_size=int(min_pattern_size), min_samples=int(min_samples), epsilon=float(epsilon),
        method=method, metric=metric, normalize="mean_std" if isinstance(normalize, str) else bool(normalize),
        reduce=False if components is None else int(components), fit_samples=len(chosen),
    )
    clustering = Clustering(space.points(values[chosen]), options.of_hdbscan)
    rest = np.setdiff1d(np.arange(count), chosen)
    labels, probability, outlier_score = (np.empty(count, dtype) for dtype in (int, float, float))
    for rows, found in ((chosen, clustering.own), *assigned(clustering, space, values, rest)):
        labels[rows], probability[rows], outlier_score[rows] = found
    return Patterns(
        labels, probability, outlier_score, clustering.persistence, samples, options.model_dump(), values, space,
        clustering,
    )


def _rows_to_cluster(
    values: Any, layer: str | None, quantity: str
) -> tuple[Any, np.ndarray, PatternSource | None]:
    """Matrix, samples of its rows, and where it comes from."""
    if isinstance(values, ReferenceStore):
        if layer is None:
            raise TypeError(f"say which layer of the store: find_patterns(store, {values.layers[0]!r}, {quantity!r})")
        source = PatternSource(store=values.identity(), layer=layer, quantity=cast(Quantity, quantity))
        return values.values(layer, quantity), values.rows(quantity)["sample"], source
    if layer is not None:
        raise TypeError(f"layer={layer!r} is a layer of a store, but values is a {type(values).__name__}")
    values = as_values(values)
    return values, np.arange(len(values)), None


def _number_of_components(reduce: int | bool | None, units: int, rows: int, is_large: bool) -> int | None:
    """How many principal components to keep; None for all units as they are."""
    if reduce is None:
        reduce = is_large and units > REDUCED_TO
    if reduce is False:
        return None
    components = min(REDUCED_TO, units, rows) if reduce is True else reduce
    if not 1 <= components <= min(units, rows):
        raise ValueError(f"reduce is from 1 to {min(units, rows)} for {rows} rows of {units} units, not {reduce}")
    return components
