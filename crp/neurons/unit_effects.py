"""What units would change in a model's answer if they took their values of another input."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from zennit.core import Composite, Hook
from zennit.rules import Epsilon, Norm, Pass

from crp.attribution.conditional import CondAttribution
from crp.attribution.conditions import check_targets, value_of_target
from crp.attribution.contrast import Contrast
from crp.attribution.taps import LayerTaps, tap_module
from crp.concepts import Concept, EncodedConcept, as_layer_map
from crp.concepts.layer_map import UNSAID, check_said
from crp.model.edits import edits_of, without_edits
from crp.model.frames import import_pandas
from crp.model.inputs import call_model, copied_inputs, count_samples, gradient_mode, list_tensors, map_tensors
from crp.model.layers import resolve_layer, select_output
from crp.neurons.interventions import check_called_once
from crp.neurons.ranking import Ranking
from crp.rules.attach import freeze_parameters, run_exclusively
from crp.rules.control_flow import step_by_step
from crp.rules.operations.choice import ATTENTION
from crp.rules.operations.per_unit import PerUnitMode
from crp.rules.restoring import TensorState, undone

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

Metric: TypeAlias = Callable[[Tensor], Tensor]
METHODS = ("relevance", "gradient", "exact")


@dataclass(frozen=True, eq=False)
class Effects:
    """What units change in a metric, if each by itself takes its value of a counterfactual input.

    Attributes
    ----------
    effects : dict
        Layer -> [B, units], or [B, units, positions] where positions were asked for.
    clean, counterfactual : numpy.ndarray
        [B], the metric of the data and of the counterfactual input.
    method : str
    options : dict
    """

    effects: dict[str, np.ndarray] = field(repr=False)
    clean: np.ndarray = field(repr=False)
    counterfactual: np.ndarray = field(repr=False)
    method: str
    options: dict[str, Any]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{layer!r} {array.shape}" for layer, array in self.effects.items())
        return (
            f"Effects(by {self.method}, {sizes}; metric {self.clean.mean():.4g}, of the counterfactual "
            f"{self.counterfactual.mean():.4g})"
        )

    def __getitem__(self, layer: str) -> np.ndarray:
        """The effects at a layer."""
        return self.effects[layer]

    def ranking(self, sign: str = "absolute") -> Ranking:
        """Units in order of their mean effect over the samples; all positions of a unit added up.

        Parameters
        ----------
        sign : {"absolute", "positive", "negative"}
            Order by the absolute value of the mean effect, or by the effect itself, upwards or downwards.
        """
        if sign not in ("absolute", "positive", "negative"):
            raise ValueError(f"sign is 'absolute', 'positive' or 'negative', not {sign!r}")
        of_units = [np.atleast_3d(array).sum(2).mean(0) for array in self.effects.values()]
        means = np.concatenate(of_units).astype(np.float64)
        scores = {"absolute": np.abs(means), "positive": means, "negative": -means}[sign]
        order = np.argsort(-scores, kind="stable")
        nothing = np.empty((0, len(scores)))
        return Ranking(
            f"effect by {self.method}", {"sign": sign}, list(self.effects), [len(found) for found in of_units], order,
            scores[order], [], nothing.astype(int), nothing, None, None, np.empty(0, int), len(self.clean), 0,
        )

    def to_frame(self) -> pandas.DataFrame:
        """A table with a row for each unit: layer, unit, mean effect over the samples. Needs pandas."""
        rows = [
            {"layer": layer, "unit": unit, "effect": effect} for layer, array in self.effects.items()
            for unit, effect in enumerate(np.atleast_3d(array).sum(2).mean(0))
        ]
        return import_pandas().DataFrame(rows)

    def plot(self, k: int = 20, figsize: tuple[float, float] | None = None) -> Figure:
        """Draw the mean effects of the units with the largest ones.

        Parameters
        ----------
        k : int, default 20
            How many.
        figsize : tuple of float, optional
            In inches.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from crp.pictures.ranking_plots import draw_ranking

        ranking = self.ranking()
        means = np.concatenate([np.atleast_3d(array).sum(2).mean(0) for array in self.effects.values()])
        names = [str(unit) if isinstance(unit, int) else f"{unit[0]} {unit[1]}" for unit in ranking.top(k)]
        total = self.counterfactual.mean() - self.clean.mean()
        how = "measured" if self.method == "exact" else f"estimated by {self.method}"
        title = f"effects of {len(names)} units, {how}; of the whole input: {total:.3g}"
        return draw_ranking(names, means[ranking.order[:k]], None, title, figsize, "change of the metric")


def effects(
    attribution: CondAttribution, data: Any, counterfactual: Any, layers: Any, *, method: str = "relevance",
    composite: Composite | None = None, functional: str = "cp-lrp", y: Any = None, metric: Metric | None = None,
    positions: bool = False, batch_size: int = 64,
) -> Effects:
    """Estimate, or measure, what each unit changes if it takes its value of a counterfactual input.

    "exact" is activation patching: the model runs once for each unit (and position), with its value replaced. The other
    methods take two forward passes and one backward pass, whatever the number of units: the difference of the two
    activations times the gradient of the metric ("gradient", attribution patching), or times the relevance per unit of
    activation ("relevance", relevance patching), which is no gradient where rules of relevance are none: activation
    functions, normalisation, products and attention.

    Parameters
    ----------
    attribution : CondAttribution
        Of the model; its output is what ``y`` and ``metric`` are about.
    data, counterfactual : torch.Tensor, tuple or dict
        [B, ...] each, of the same shapes.
    layers : list of str, or dict layer -> Concept
        Addressed as in conditions; a list means the channels on axis 1, where there is no doubt: of layers [B, T, C]
        or [B, C, T] it has to be said.
    method : {"relevance", "gradient", "exact"}
    composite : zennit.core.Composite, optional
        Not needed: linear layers hand on relevance by the epsilon rule. Composites with other rules, such as
        ``EpsilonPlus``, are refused.
    functional : {"cp-lrp", "attnlrp", "cp-lrp-gates"}
        As for :class:`crp.attribution.CondAttribution`: with "cp-lrp" the weights of attention are constants.
    y : optional
        Outputs as they stand under "y" in conditions, the same for all samples: ``y=3``, ``y=[0, 1]`` (their sum),
        ``y=[(-1, 42)]``, a :class:`crp.attribution.Contrast`. Or one for each sample: a tensor or array of B classes,
        or a list of B contrasts. The metric is the output, or the difference. By default the largest output of each
        sample; outputs with positions need it.
    metric : callable, optional
        ``output [B, ...] -> [B]``, differentiable, instead of ``y``.
    positions : bool, default False
        Effects of each position by itself, instead of all positions of a unit at once.
    batch_size : int, default 64
        For "exact", how many patched samples run at once.

    Returns
    -------
    Effects

    Raises
    ------
    ValueError, TypeError
        If a layer does not exist, is not used or called several times, the counterfactual has another shape, or rules
        do not say what relevance there is per unit.

    References
    ----------
    F. Rezaei Jafari, O. Eberle, A. Khakzar, N. Nanda (2025). RelP: Faithful and Efficient Circuit Discovery via
    Relevance Patching. arXiv:2508.21258.

    N. Nanda (2023). Attribution Patching: Activation Patching At Industrial Scale.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from crp.attribution import CondAttribution
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    >>> found = effects(CondAttribution(model), torch.rand(2, 4), torch.rand(2, 4), ["1"], y=0)
    >>> found["1"].shape
    (2, 8)
    """
    if method not in METHODS:
        raise ValueError(f"method is {', '.join(map(repr, METHODS))}, not {method!r}")
    if functional not in ATTENTION:
        raise ValueError(f"functional is {', '.join(map(repr, ATTENTION))}, not {functional!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, not {batch_size}")
    if y is not None and metric is not None:
        raise TypeError("y and metric both say what is looked at: give one of them")
    model = attribution.model
    concepts = as_layer_map(layers)
    if not isinstance(layers, Mapping):
        concepts = dict.fromkeys(concepts, UNSAID)
    for layer in concepts:
        resolve_layer(model, layer)
    if composite is not None and method == "relevance":
        _check_per_unit(composite, model)
    _check_same_shape(data, counterfactual)
    study = _Study(attribution, concepts, data, counterfactual, y, metric, functional, positions)

    def run() -> Effects:
        with undone(TensorState(model).restore):
            freeze_parameters(model)
            found = study.exact(batch_size) if method == "exact" else study.estimated(method)
        options = {"functional": functional} if method == "relevance" else {}
        return Effects(found, study.clean, study.of_counterfactual, method, options)

    return run_exclusively(model, run)


def _check_per_unit(composite: Composite, model: nn.Module) -> None:
    """Raise a ValueError for rules of which relevance per unit of activation is not the gradient."""
    context: dict = {}
    for name, module in model.named_modules():
        rule = composite.module_map(context, name, module)
        if isinstance(rule, Hook) and type(rule) not in (Epsilon, Norm, Pass):
            raise ValueError(
                f"the composite gives {type(rule).__name__} to {name!r}: relevance per unit of activation is known of "
                "the rules Epsilon, Norm and Pass; without composite= all layers have the epsilon rule"
            )


def _check_same_shape(data: Any, counterfactual: Any) -> None:
    shapes = [[tuple(tensor.shape) for tensor in list_tensors(inputs)] for inputs in (data, counterfactual)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"data has the shapes {shapes[0]}, the counterfactual {shapes[1]}: they are to be the same")


class _Study:
    """The two inputs, run through the model with layers read or patched."""

    def __init__(
        self, attribution: CondAttribution, concepts: dict[str, Concept], data: Any, counterfactual: Any, y: Any,
        metric: Metric | None, functional: str, positions: bool,
    ):
        self.attribution, self.model, self.concepts = attribution, attribution.model, concepts
        self.data, self.other, self.functional, self.positions = data, counterfactual, functional, positions
        self.count = count_samples(data)
        self.y, self.given_metric = y, metric
        self.clean = self.of_counterfactual = np.empty(0)
        self._largest: Tensor | None = None

    def metric(self, output: Any, samples: Sequence[int]) -> Tensor:
        """[rows], the metric of rows that are of some samples."""
        chosen = select_output(output, self.attribution.output, self.attribution.MODEL_OUTPUT_NAME)
        if chosen.shape[:1] != (len(samples),):
            raise ValueError(f"the output has the shape {tuple(chosen.shape)}, but there are {len(samples)} samples")
        if self.given_metric is not None:
            found = self.given_metric(chosen)
            if not isinstance(found, Tensor) or found.shape != (len(samples),):
                raise ValueError(f"metric gives one number for each of {len(samples)} samples, [B], not {found!r:.80}")
            return found
        if self.y is None and self._largest is None:
            if chosen.ndim != 2:
                raise ValueError(f"the output has the shape {tuple(chosen.shape)}: say with y= which of it is meant")
            self._largest = chosen.detach().argmax(1)
        targets = self._targets()
        if len(targets) != self.count:
            raise ValueError(f"y holds {len(targets)} targets, but there are {self.count} samples")
        name = self.attribution.MODEL_OUTPUT_NAME
        check_targets([{name: target} for target in targets], name, chosen.shape)
        return torch.stack([value_of_target(chosen[row], targets[i]) for row, i in enumerate(samples)])

    def _targets(self) -> list[Any]:
        """What stands under "y" for each sample."""
        if self._largest is not None:
            return self._largest.tolist()
        if isinstance(self.y, (Tensor, np.ndarray)) and self.y.ndim == 1:
            return self.y.tolist()
        is_of_each = isinstance(self.y, (list, tuple)) and all(isinstance(one, Contrast) for one in self.y)
        return list(self.y) if is_of_each and len(self.y) else [self.y] * self.count

    def read(self, inputs: Any, *, graph: bool = False) -> tuple[dict[str, Tensor], Tensor]:
        """Activations of the layers, and the metric; with a graph from the lowest layer on."""
        held, recorded = (self.concepts, ()) if graph else ((), self.concepts)
        with LayerTaps(
            self.model, held, recorded, None if graph else lambda tensor, _: tensor.clone(), from_layers=graph,
            edits=edits_of(self.model),
        ) as taps, without_edits():
            with step_by_step():
                output = call_model(self.model, copied_inputs(inputs, self.attribution.device))
                found = self.metric(output, range(self.count))
            check_called_once(taps.calls, self.concepts)
            for layer, concept in self.concepts.items():
                check_said(concept, taps.activations[layer].shape, layer)
            return dict(taps.outputs if graph else taps.activations), found

    def estimated(self, method: str) -> dict[str, np.ndarray]:
        """Differences times gradients, or times relevance per unit."""
        with gradient_mode(), ExitStack() as stack:
            if method == "relevance":
                mode = PerUnitMode(self.model, self.functional)
                stack.callback(mode.temporary.remove)
                stack.enter_context(mode)
            activations, metric = self.read(self.data, graph=True)
            if not metric.requires_grad:
                raise ValueError("the metric does not depend on the layers")
            factors = torch.autograd.grad(metric.sum(), list(activations.values()), allow_unused=True)
        with torch.no_grad():
            others, of_other = self.read(self.other)
            self.clean, self.of_counterfactual = (found.detach().double().cpu().numpy() for found in (metric, of_other))
            return {
                layer: self._by_unit(layer, activations[layer].detach(), others[layer], factor)
                for layer, factor in zip(activations, factors)
            }

    def _by_unit(self, layer: str, activation: Tensor, other: Tensor, factor: Tensor | None) -> np.ndarray:
        concept = self.concepts[layer]
        factor = torch.zeros_like(activation) if factor is None else factor
        if isinstance(concept, EncodedConcept):
            products = concept.shares_of(factor, activation, other)
        else:
            products = factor * (other - activation)
        values = concept.at_positions(products, layer) if self.positions else concept.read(products, layer).value
        return values.double().cpu().numpy()

    def exact(self, batch_size: int) -> dict[str, np.ndarray]:
        """The metric with each unit patched, less that of the data."""
        with torch.no_grad():
            activations, clean = self.read(self.data)
            others, of_other = self.read(self.other)
            self.clean, self.of_counterfactual = (found.double().cpu().numpy() for found in (clean, of_other))
            return {layer: self._patched(layer, activations[layer], others[layer], batch_size) for layer in activations}

    def _patched(self, layer: str, activation: Tensor, other: Tensor, batch_size: int) -> np.ndarray:
        concept = self.concepts[layer]
        code = concept.code_of(activation) if isinstance(concept, EncodedConcept) else activation
        units = concept.read(code[:1], layer).value.shape[1]
        count = 1
        if self.positions:
            count = concept.at_positions(code[:1], layer).shape[2]
        found = np.empty((self.count, units, count))
        places = [(sample, unit, at) for sample in range(self.count) for unit in range(units) for at in range(count)]
        for first in range(0, len(places), batch_size):
            part = places[first:first + batch_size]
            samples = [sample for sample, _, _ in part]
            members = torch.cat([
                concept.members(code.shape, [unit], [at] if self.positions else None, layer) for _, unit, at in part
            ]).to(activation.device)
            x, goal = activation[samples], other[samples]
            if isinstance(concept, EncodedConcept):
                patched = concept.patched(x, goal, members)
            else:
                patched = torch.where(members, goal, x)
            metric = self._with_layer(layer, patched, samples).double().cpu().numpy()
            found[tuple(np.array(part).T)] = metric - self.clean[samples]
        return found if self.positions else found[:, :, 0]

    def _with_layer(self, layer: str, tensor: Tensor, samples: list[int]) -> Tensor:
        """The metric where a layer gives a tensor for rows of some samples."""
        inputs = map_tensors(lambda values: values[samples], self.data)
        with undone(tap_module(resolve_layer(self.model, layer), lambda _: tensor.clone()).remove):
            return self.metric(call_model(self.model, copied_inputs(inputs, self.attribution.device)), samples)
