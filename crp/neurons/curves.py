"""Ablation curves: what becomes of a model's answers as more and more units are taken away."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.integrate import trapezoid
from torch import Tensor, nn
from tqdm.auto import tqdm

from crp.concepts import Concept
from crp.concepts.layer_map import UNSAID, check_said
from crp.model.frames import import_pandas
from crp.model.inputs import count_samples, device_of
from crp.model.layers import OutputChoice, resolve_layer, select_output
from crp.neurons.changes import Along, Place, Rows
from crp.neurons.interventions import activations_at, intervene
from crp.neurons.labelled_batches import LabelledBatches
from crp.neurons.lower_part import LowerPart
from crp.neurons.metrics import Metric, as_metric
from crp.neurons.ranking import Ranking
from crp.rules.attach import check_supported
from crp.rules.restoring import TensorState, run_undone

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

WAYS = ("zero", "mean", "resample")
ORDERS = ("most important first", "least important first")
_RESAMPLINGS = 1000


class Key(NamedTuple):
    """Of a curve: the name of the ranking, how units are taken away, and in which order."""

    ranking: str
    by: str
    order: str


class Area(NamedTuple):
    """What two curves of a ranking say.

    Attributes
    ----------
    ranking, by : str
    most, least : float
        Area under the curve with the most and with the least important units first.
    difference : float
        ``least - most``: the larger, the better the ranking.
    lower, upper : float
        Bootstrap interval of 95 % of the difference, over samples; NaN for metrics that do not tell samples apart.
    random : float
        Mean area under curves in random order.
    cpr, cmd : float
        Circuit performance ratio and circuit-model distance (MIB, A. Mueller et al., 2025): the areas under
        faithfulness ``f`` and ``|1 - f|`` by the share of the units that are kept, the most important ones. ``f`` is 1
        for the whole model and 0 without any of these units.
    """

    ranking: str
    by: str
    most: float
    least: float
    difference: float
    lower: float
    upper: float
    random: float
    cpr: float
    cmd: float


@dataclass(frozen=True, eq=False)
class AblationCurves:
    """Scores of a model without some of its units.

    Attributes
    ----------
    fractions : numpy.ndarray
        [S], shares of the ranked units that are taken away, from 0 to 1.
    curves : dict
        ``(ranking, by, order)``, with these as attributes too -> [S], the scores.
    random : dict
        By -> [R, S], the scores of random orders.
    metric : str
        Its name.
    """

    fractions: np.ndarray
    curves: dict[Key, np.ndarray] = field(repr=False)
    random: dict[str, np.ndarray] = field(repr=False)
    metric: str
    _of_samples: dict[Key, np.ndarray] = field(repr=False)

    def __repr__(self) -> str:
        names = ", ".join(f"{area.ranking} by {area.by}: {area.difference:.3g}" for area in self.areas())
        return f"AblationCurves({self.metric}; areas between the curves: {names})"

    def areas(self, random_state: int | None = 0) -> list[Area]:
        """The areas of each ranking and way, with intervals."""
        found = []
        for ranking, by in dict.fromkeys((key.ranking, key.by) for key in self.curves):
            keys = [Key(ranking, by, order) for order in ORDERS]
            most, least = (_area(self.curves[key], self.fractions) for key in keys)
            lower = upper = float("nan")
            if keys[0] in self._of_samples:
                own = [_area(self._of_samples[key], self.fractions) for key in keys]
                lower, upper = _interval(own[1] - own[0], random_state)
            found.append(Area(
                ranking, by, float(most), float(least), float(least - most), lower, upper,
                float(_area(self.random[by].T, self.fractions).mean()) if len(self.random[by]) else float("nan"),
                *_faithfulness_areas(self.curves[keys[1]], self.fractions),
            ))
        return found

    def to_frame(self) -> pandas.DataFrame:
        """The curves as a table: ranking, by, order, fraction, score. Needs pandas."""
        rows: list[dict[str, Any]] = [
            {**key._asdict(), "fraction": fraction, "score": score}
            for key, curve in self.curves.items() for fraction, score in zip(self.fractions, curve)
        ]
        rows += [
            {"ranking": f"random {i}", "by": by, "order": "random", "fraction": fraction, "score": score}
            for by, curves in self.random.items() for i, curve in enumerate(curves)
            for fraction, score in zip(self.fractions, curve)
        ]
        return import_pandas().DataFrame(rows)

    def plot(self, figsize: tuple[float, float] | None = None) -> Figure:
        """Draw the curves, a panel for each way to take units away, and the spread of random orders behind them.

        Parameters
        ----------
        figsize : tuple of float, optional
            In inches.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from crp.pictures.ranking_plots import draw_curves

        curves = {by: {(key.ranking, key.order == ORDERS[0]): curve for key, curve in self.curves.items()
                       if key.by == by} for by in self.random}
        return draw_curves(self.fractions, curves, self.random, self.metric, figsize)


def ablation_curve(
    model: nn.Module, data: Any, rankings: Ranking | Mapping[str, Ranking], metric: Any = "accuracy", *,
    by: str | Sequence[str] = WAYS, steps: Sequence[float] = (.01, .02, .05, .1, .2, .3, .5, .75, 1.), random: int = 8,
    layer: str | None = None, concepts: Concept | Mapping[str, Concept] | None = None, output: OutputChoice = None,
    batch_size: int = 64, random_state: int | None = 0, verbose: bool = True,
) -> AblationCurves:
    """Take units away in the order of rankings, in the reverse order, and in random orders, and see what is left.

    Modules below the ranked layers run once for each batch; each step is one pass through the rest.

    Parameters
    ----------
    model : torch.nn.Module
    data : tuple, dataset or DataLoader
        (inputs, targets) of all samples; a dataset that gives such pairs; or a loader of batches of them.
    rankings : Ranking or dict name -> Ranking
        Of units of the same layers.
    metric : str or callable
        "accuracy", "probability" or "logit" of the target, "cross_entropy" (negative, so that more is better); or
        ``(output, targets) -> [B]`` or one number for a batch; or an object with ``reset``, ``update(output, targets)``
        and ``compute``, as torchmetrics has them. More has to be better: a loss goes in with a minus.
    by : str or sequence of str
        "zero"; "mean", over the data and positions; "resample": the values of another sample of the batch.
    steps : sequence of float
        Shares of the ranked units, of which there is at least one; besides none and all.
    random : int, default 8
        How many random orders.
    layer : str, optional
        The layer that rankings of arrays are of.
    concepts : Concept or dict, optional
        What the units are, as for :func:`crp.neurons.intervene`; by default channels on axis 1.
    output : str, int or callable, optional
        Which tensor the metric is given, as for :class:`crp.attribution.CondAttribution`.
    batch_size : int, default 64
    random_state : int or None, default 0
        Of random orders, and of what is resampled.
    verbose : bool, default True
        Whether to show a progress bar.

    Returns
    -------
    AblationCurves

    Raises
    ------
    ValueError, TypeError
        If rankings are of other layers or units than the model has, or of different ones, or options do not exist.

    References
    ----------
    A. Mueller et al. (2025). MIB: A Mechanistic Interpretability Benchmark. arXiv:2504.13151.
    """
    check_supported(model)
    ways = [by] if isinstance(by, str) else list(by)
    for way in ways:
        if way not in WAYS:
            raise ValueError(f"by is {', '.join(map(repr, WAYS))}, not {way!r}")
    if not ways or random < 0 or not steps or not all(0 < step <= 1 for step in steps):
        raise ValueError("by names at least one way, steps are shares above 0 and at most 1, random is not negative")
    named = {rankings.method: rankings} if isinstance(rankings, Ranking) else dict(rankings)
    layers, sizes = _layers_of(named, layer)
    for name in layers:
        resolve_layer(model, name)
    units = sum(sizes)
    counts = np.unique([0, units, *(max(round(step * units), 1) for step in steps)])
    study = _Ablation(model, layers, sizes, concepts, output, as_metric(metric), counts, random_state)
    generator = np.random.default_rng(random_state)
    orders = {Key(name, "", order): ranking.order[::direction] for name, ranking in named.items()
              for order, direction in zip(ORDERS, (1, -1))}
    randoms = [Key(f"random {i}", "", "random") for i in range(random)]
    orders |= {key: generator.permutation(sum(sizes)) for key in randoms}
    batches = LabelledBatches(data, batch_size, device_of(model))
    return run_undone(lambda: study.run(batches, ways, orders, verbose), TensorState(model).restore)


def _layers_of(rankings: dict[str, Ranking], layer: str | None) -> tuple[list[str], list[int]]:
    """The layers that all rankings are of, and how many units each has."""
    if not rankings or not all(isinstance(ranking, Ranking) for ranking in rankings.values()):
        raise TypeError("rankings are a Ranking, or a dict of names and Rankings")
    for name, ranking in rankings.items():
        if ranking.method == "svcca":
            raise ValueError(f"ranking {name!r} is of {len(ranking)} directions, and not of units")
    found = {name: (ranking.layers or ([layer] if layer else []), ranking.sizes) for name, ranking in rankings.items()}
    (first, (layers, sizes)), *others = found.items()
    for name, of_ranking in others:
        if of_ranking != (layers, sizes):
            raise ValueError(f"ranking {name!r} is of {of_ranking}, {first!r} of {(layers, sizes)}: not the same units")
    if not layers:
        raise ValueError("the rankings are of arrays: say with layer= which layer their units are of")
    return layers, sizes


class _Ablation:
    """Takes units of layers away from a model, batch by batch."""

    def __init__(
        self, model: nn.Module, layers: list[str], sizes: list[int], concepts: Any, output: OutputChoice,
        metric: Metric, counts: np.ndarray, random_state: int | None,
    ):
        self.model, self.layers, self.sizes, self.concepts = model, layers, sizes, concepts
        self.output, self.metric, self.counts, self.random_state = output, metric, counts, random_state
        self.fractions = counts / sum(sizes)
        self._starts = np.cumsum([0, *sizes])
        self._others: dict[str, Tensor] = {}

    def run(
        self, batches: LabelledBatches, ways: list[str], orders: dict[Key, np.ndarray], verbose: bool
    ) -> AblationCurves:
        """Scores of all orders in all ways."""
        with torch.no_grad():
            means = self._means(batches) if "mean" in ways else {}
            keys = [key._replace(by=way) for way in ways for key in orders]
            tallies = {(key, step): self.metric.tally() for key in keys for step in range(len(self.fractions))}
            bar = tqdm(total=batches.count * len(keys), desc="ablation", disable=not verbose)
            with bar:
                for number, (inputs, targets) in enumerate(batches):
                    self._one_batch(number, inputs, targets, orders, ways, means, tallies, bar)
        curves, of_samples = {}, {}
        for key in keys:
            found = [tallies[key, step] for step in range(len(self.fractions))]
            curves[key] = np.array([tally.score() for tally in found])
            if found[0].tells_samples:
                of_samples[key] = np.stack([np.concatenate(tally.values) for tally in found])
        random = {way: np.array([curve for key, curve in curves.items() if key.order == "random" and key.by == way])
                  .reshape(-1, len(self.fractions)) for way in ways}
        return AblationCurves(
            self.fractions, {key: curve for key, curve in curves.items() if key.order != "random"}, random,
            self.metric.name, of_samples,
        )

    def _one_batch(
        self, number: int, inputs: Any, targets: Tensor, orders: dict[Key, np.ndarray], ways: list[str],
        means: dict[str, Along], tallies: dict[tuple[Key, int], Any], bar: Any,
    ) -> None:
        addresses = [resolve_layer(self.model, layer) for layer in self.layers]
        with LowerPart(self.model, inputs, addresses) as lower:
            activations = self._activations(lower) if "resample" in ways or number == 0 else {}
            if number == 0:
                self._check_sizes(activations)
            clean = self._chosen(lower.output)
            for way in ways:
                values: dict[str, Any] = dict.fromkeys(self.layers, 0.) if way == "zero" else means
                if way == "resample":
                    values = self._of_other_samples(activations, number)
                for key, order in orders.items():
                    for step, count in enumerate(self.counts):
                        output = clean
                        if count > 0:
                            with intervene(self.model, self._changes(order[:count], values), concepts=self.concepts):
                                output = self._chosen(lower.run())
                        tallies[key._replace(by=way), step].add(output, targets)
                    bar.update()

    def _changes(self, numbers: np.ndarray, values: Mapping[str, Any]) -> dict[str, dict]:
        layer = np.searchsorted(self._starts, numbers, side="right") - 1
        return {
            self.layers[i]: {tuple((numbers[layer == i] - self._starts[i]).tolist()): values[self.layers[i]]}
            for i in np.unique(layer)
        }

    def _activations(self, lower: LowerPart) -> dict[str, Tensor]:
        return activations_at(self.model, None, self.layers, lower.run)

    def _of_other_samples(self, activations: dict[str, Tensor], number: int) -> dict[str, Rows]:
        """For each sample, what another one of the batch does; for a batch of one, one of the batch before."""
        count = len(next(iter(activations.values())))
        if count > 1:
            self._others = activations
        if not self._others:
            raise ValueError("by='resample' takes values of other samples of a batch: batch_size is at least 2")
        state = None if self.random_state is None else self.random_state + number
        shift = int(np.random.default_rng(state).integers(1, max(count, 2)))
        return {layer: Rows(found.roll(shift, 0)[:count]) for layer, found in self._others.items()}

    def _check_sizes(self, activations: dict[str, Tensor]) -> None:
        for layer, size in zip(self.layers, self.sizes):
            concept = self._concept(layer)
            check_said(concept, activations[layer].shape, layer)
            one = Place(layer, concept, {}).coordinates(activations[layer][:1])
            found = concept.read(one, layer).value.shape[1]
            if found != size:
                raise ValueError(
                    f"the ranking is of {size} units of {layer!r}, which has {found} by {type(concept).__name__}; "
                    "concepts= says what units are"
                )

    def _concept(self, layer: str) -> Concept:
        found = self.concepts.get(layer) if isinstance(self.concepts, Mapping) else self.concepts
        return UNSAID if found is None else found

    def _means(self, batches: LabelledBatches) -> dict[str, Along]:
        """Mean of each unit over all data and positions."""
        totals: dict[str, Tensor] = {}
        count = 0
        for inputs, _ in batches:
            samples = count_samples(inputs)
            for layer, found in activations_at(self.model, inputs, self.layers).items():
                check_said(self._concept(layer), found.shape, layer)
                mean = Place(layer, self._concept(layer), {}).mean(found).double() * samples
                totals[layer] = totals[layer] + mean if layer in totals else mean
            count += samples
        return {layer: Along((total / count).float()) for layer, total in totals.items()}

    def _chosen(self, output: Any) -> Tensor:
        return select_output(output, self.output, "y")


def _area(curves: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Areas under curves [S, ...], by the share of the units that are taken away."""
    return trapezoid(curves, fractions, axis=0)


def _interval(values: np.ndarray, random_state: int | None) -> tuple[float, float]:
    """Bootstrap interval of 95 % of a mean."""
    random = np.random.default_rng(random_state)
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(_RESAMPLINGS)]
    lower, upper = np.quantile(means, [.025, .975])
    return float(lower), float(upper)


def _faithfulness_areas(least_first: np.ndarray, fractions: np.ndarray) -> tuple[float, float]:
    """CPR and CMD of the circuits that remain when the least important units go first."""
    whole, nothing = least_first[0], least_first[-1]
    if whole == nothing:
        return float("nan"), float("nan")
    faithfulness = ((least_first - nothing) / (whole - nothing))[::-1]
    kept = 1 - fractions[::-1]
    return float(trapezoid(faithfulness, kept)), float(trapezoid(np.abs(1 - faithfulness), kept))
