"""Ranking the units of layers."""
from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np

from crp.neurons.labels import Labels, read_labels
from crp.neurons.methods import METHODS, Found, Method, constant_units, rank_tables
from crp.neurons.ranking import Ranking, RankingSource, default_quantity
from crp.neurons.splits import groups_of
from crp.neurons.values import UnitTable, unit_table
from crp.store.files import Quantity
from crp.store.reader import ReferenceStore

_OF_THE_SCALE = ("relevance", "activation", "variance", "mean_distance", "probeless")


def rank(
    values: Any, labels: Any = None, by: str | Callable[[np.ndarray, np.ndarray], Any] = "relevance", *,
    layers: str | list[str] | None = None, quantity: str | None = None, groups: Any = None,
    random_state: int | None = 0, **options: Any,
) -> Ranking:
    """Rank units: which matter most, to the model or for what labels say.

    Parameters
    ----------
    values : array-like, dict, ReferenceStore or list of these
        [rows, units], a dict layer -> such an array, or a store. Several layers are ranked together. For "correlation",
        "regression" and "svcca" a list of two or more of these with the same rows: other models, checkpoints or layers;
        the units of the first are ranked.
    labels : array-like, optional
        One for each row, or for each sample of a store's dataset: integers, strings or booleans are classes, real
        numbers are numbers. Rows without one (None, NaN) are left out and counted. By default the targets of a store.
    by : str or callable
        What the scores are.

        - "relevance": the mean share that a unit has in the absolute values of its layer; of a store's relevance.
          ``targets`` takes only rows of these classes.
        - "activation": the mean absolute value, in a store of the sum over positions; ``targets`` as before.
        - "variance", "mean_distance": the variance, and the mean distance from the mean.
        - "anova": the F statistic, over all classes, and for each against the rest; for numbers that of a regression.
        - "probeless": the distances between the means of classes, added up over all pairs, and for each class over
          the others.
        - "average_precision": for each class the average precision of a unit as its detector. Over all classes the
          best one, in units of what there is to gain above chance, ``(precision - share) / (1 - share)``.
        - "mutual_information": with the labels, in nats, by ``n_neighbors`` (3); see
          ``sklearn.feature_selection.mutual_info_classif``.
        - "probe": elastic-net logistic regression (linear for numbers) with the penalties ``l1`` and ``l2`` (1e-3) on
          the absolute weights and on half their squares, beside the mean loss of units in standard deviations. Units
          come in by growing share of the weight mass of a class; the score is one less the share that is held already.
          ``details["weights"]`` are [K, U].
        - "gaussian": greedy choice of ``n_select`` (20) units among the best ``candidates`` (200) of ANOVA, each for
          what it adds to what those before it tell of the classes, in bits, by a Gaussian for each class with an
          inverse-Wishart prior. The order is that of the choice; the others follow by ANOVA with a score of 0.
        - "correlation": the best absolute correlation with a unit of each other model, the largest or smallest of these
          as ``reduce`` ("max" or "min") says. ``details["partner"]`` and ``["correlation"]`` are [models - 1, U], with
          sign.
        - "regression": how well least squares predict a unit from all units of another model, R squared on rows held
          out (``test_size`` .5), reduced alike.
        - "svcca": directions of the first model by their canonical correlation with the second, both reduced to the
          components with a share ``variance`` (.99) of theirs; ``details["directions"]`` are [D, U].
        - "random": random numbers, to compare with.
        - a function ``(values [rows, units], labels [rows]) -> scores [units]``.

        Everything that is fitted holds out ``test_size`` (.25) of the samples or groups.
        The other methods draw samples ``n_bootstrap`` (100) times for their intervals; "mutual_information" only if
        asked to, since each takes as long as the first, and by halves without repeats.
    layers : str or list of str, optional
        Of a store or dict; by default all.
    quantity : {"activation", "relevance"}, optional
        Of a store; by default relevance for "relevance", otherwise activation.
    groups : array-like, optional
        For each row what belongs together, such as the text of a word: it is held out, or drawn for intervals, as a
        whole. By default the samples of a store.
    random_state : int or None, default 0
        Of what is drawn: resamplings, splits, random scores.
    **options
        Of the method.

    Returns
    -------
    Ranking
        Ties go to the lower unit. Units with the same value in all rows have a score of 0, except by "relevance" and
        "activation", where that value is their score; they are named in ``constant``.

    Raises
    ------
    ValueError, TypeError
        If a layer, method or option does not exist, values hold NaN, or labels are missing, of another length, or all
        the same.

    References
    ----------
    F. Dalvi, H. Sajjad, N. Durrani (2023). NeuroX Library for Neuron Analysis of Deep NLP Models. ACL (demos). It
    describes most of these rankings.

    O. Antverg, Y. Belinkov (2022). On the Pitfalls of Analyzing Individual Neurons in Language Models. ICLR
    (probeless).

    L. Torroba Hennigen, A. Williams, R. Cotterell (2020). Intrinsic Probing through Dimension Selection. EMNLP
    (gaussian).

    M. Raghu, J. Gilmer, J. Yosinski, J. Sohl-Dickstein (2017). SVCCA. NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> random = np.random.default_rng(0)
    >>> labels = random.integers(0, 2, 500)
    >>> values = random.normal(size=(500, 10))
    >>> values[:, 7] += 2 * labels
    >>> ranking = rank(values, labels, by="anova")
    >>> ranking.top(1)
    [7]
    """
    name, method = _method(by)
    method.check(name, options)
    quantity = default_quantity(name) if quantity is None else quantity
    given = list(values) if method.several and isinstance(values, (list, tuple)) else [values]
    if method.several and len(given) < 2:
        raise ValueError(f"by={name!r} compares models: give a list of two or more, rank([a, b], by={name!r})")
    tables = [unit_table(one, layers if _has_layers(one) else None, quantity) for one in given]
    names = [f"values[{i}]" for i in range(len(given))]
    if method.several and labels is not None:
        raise TypeError(f"by={name!r} compares models and looks at no labels")
    known = _labels(labels, tables[0], method, name)
    if groups is not None and not method.takes("groups"):
        codes = np.zeros(tables[0].rows, int)
        codes[known.rows] = groups_of(tables[0], known, groups)
        tables[0] = replace(tables[0], samples=codes)
    elif groups is not None:
        options = options | {"groups": groups}
    if name in _OF_THE_SCALE and len(tables[0].matrices) > 1:
        warnings.warn(
            f"scores by {name!r} depend on the size and scale of a layer: rank layers by themselves, layers='...', or "
            "compare what does not, such as by='anova'", stacklevel=2,
        )
    found = rank_tables(tables, names, known, method, random_state, options)
    given_labels = {"labels": "given"} if labels is not None else {}
    return _ranking(name, method, tables[0], known, found, options | given_labels, random_state)


def _method(by: Any) -> tuple[str, Method]:
    if callable(by):
        def score(table: UnitTable, labels: Labels, random_state: int | None) -> Found:
            return _scores_of(by, table, labels)

        return getattr(by, "__name__", type(by).__name__), Method(score, "optional")
    if by not in METHODS:
        near = difflib.get_close_matches(str(by), METHODS, n=1, cutoff=.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"there is no ranking by {by!r}; {hint}There are: {', '.join(METHODS)}, and functions")
    return by, METHODS[by]


def _scores_of(by: Callable, table: UnitTable, labels: Labels) -> Found:
    values = np.concatenate([block for _, block in table.row_blocks()])[labels.rows]
    named = np.array(labels.classes)[labels.of_class] if labels.classes else labels.values
    scores = np.asarray(by(values, named), np.float64)
    if scores.shape != (table.units,):
        raise ValueError(f"{by!r} gives scores of the shape {scores.shape}, not one for each of {table.units} units")
    if np.isnan(scores).any():
        raise ValueError(f"{by!r} gives NaN for unit {int(np.flatnonzero(np.isnan(scores))[0])}")
    return Found(scores)


def _has_layers(values: Any) -> bool:
    return isinstance(values, (ReferenceStore, Mapping))


def _labels(labels: Any, table: UnitTable, method: Method, name: str) -> Labels:
    needs = method.labels in ("any", "classes")
    if labels is None and table.targets is None and needs:
        raise ValueError(f"by={name!r} needs labels, one for each of the {table.rows} rows")
    if not needs and labels is None and (table.targets is None or len(set(table.targets.tolist())) < 2):
        return Labels(np.arange(table.rows), 0, [], np.zeros(table.rows))
    if method.several:
        return Labels(np.arange(table.rows), 0, [], np.zeros(table.rows))
    found = read_labels(labels, table)
    if method.labels == "classes" and not found.classes:
        raise ValueError(f"by={name!r} compares classes, but the labels are real numbers: give integers or strings")
    return found


def _ranking(
    name: str, method: Method, table: UnitTable, labels: Labels, found: Found, options: dict[str, Any],
    random_state: int | None,
) -> Ranking:
    constant = constant_units(table, labels.rows) if found.constant is None else found.constant
    scores, of_each = found.scores.copy(), found.of_each
    if not np.isfinite(scores).all():
        number = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(f"the score of unit {number} is not finite: its values are too large to calculate with")
    bounds, order = found.interval, found.order
    if not found.keeps_constant:
        scores[constant] = 0
        if bounds is not None:
            bounds[constant] = 0
        if of_each is not None:
            of_each[:, constant] = 0
    order = np.argsort(-scores, kind="stable") if order is None else order
    has_classes = of_each is not None and len(of_each) > 0
    each = of_each if of_each is not None and has_classes else np.empty((0, table.units))
    class_order = np.argsort(-each, axis=1, kind="stable")
    layers, sizes = [layer for layer in table.matrices if layer], table.sizes
    if len(order) != table.units:  # directions, which are of no layer
        layers, sizes = [], [len(order)]
    source = None
    if table.source is not None:
        source = RankingSource(store=table.source.store.identity(), quantity=cast(Quantity, table.source.quantity))
    kept = {key: value for key, value in options.items() if key != "groups"} | {"random_state": random_state}
    return Ranking(
        name, {key: _plain(value) for key, value in kept.items()}, layers, sizes, order, scores[order],
        labels.classes if has_classes else [], class_order, np.take_along_axis(each, class_order, 1),
        None if bounds is None else bounds[order], found.held_out, constant, len(labels.rows), labels.left_out,
        found.details, source,
    )


def _plain(value: Any) -> Any:
    """An option as files hold it."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return list(value) if isinstance(value, (tuple, set, range)) else value


