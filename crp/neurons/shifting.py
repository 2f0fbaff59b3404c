"""Units moved from the values that they have for one class to those for another, and whether the answer follows."""
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from crp.concepts import ChannelConcept, Concept, as_ids
from crp.model.arrays import as_array
from crp.model.inputs import call_model, copied_inputs, count_samples, device_of, map_tensors
from crp.model.layers import OutputChoice, select_output
from crp.neurons.changes import Along
from crp.neurons.interventions import intervene


class ShiftedClass(NamedTuple):
    """How often a model gives another class once units have been moved there.

    Attributes
    ----------
    success : float
        Share of the samples of which the answer was not the target, and is now.
    lower, upper : float
        Wilson interval of 95 %.
    control : float
        The same, where each unit is moved as another one should be: the order of the units is shuffled. NaN for one.
    samples : int
        How many samples gave another answer than the target before.
    """

    success: float
    lower: float
    upper: float
    control: float
    samples: int


def shift_class(
    model: nn.Module, layer: str, values: Any, labels: Any, source: Any, target: Any, beta: float = 0., *, data: Any,
    answer: int | None = None, units: list[int] | None = None, concept: Concept | None = None,
    output: OutputChoice = None, batch_size: int = 64, random_state: int | None = 0,
) -> ShiftedClass:
    """Move units from the Gaussian of one class to that of another, and see whether the model answers so.

    A value ``x`` becomes ``mean_t + std_t / std_s (x - mean_s) + beta (mean_t - mean_s)``: units then have the mean and
    deviation that they have for the target; with ``beta`` they go on in that direction.

    Parameters
    ----------
    model : torch.nn.Module
        Its outputs [B, classes] are compared.
    layer : str
    values : array-like
        [N, ...], activations of the layer; all positions of a unit count alike.
    labels : array-like
        [N], classes.
    source, target : label
        The classes between which units move.
    beta : float, default 0
    data : torch.Tensor, tuple or dict
        Inputs, such as samples of the source class.
    answer : int, optional
        The output that stands for the target; by default ``target`` itself.
    units : list of int, optional
        Which units to move; by default all. Such as ``ranking.top(10)``.
    concept : Concept, optional
        Says on which axis the units are; by default channels on axis 1.
    output : str, int or callable, optional
        Which tensor of the model's output to look at, as for :class:`crp.attribution.CondAttribution`.
    batch_size : int, default 64
    random_state : int or None, default 0
        Of the control.

    Returns
    -------
    ShiftedClass

    Raises
    ------
    ValueError
        If a class has no values, or the model answers with the target for all samples anyway.
    """
    source, target = (name.item() if isinstance(name, (Tensor, np.generic)) else name for name in (source, target))
    concept = ChannelConcept() if concept is None else concept
    if type(concept) is not ChannelConcept:
        raise TypeError(f"units are channels, ChannelConcept(axis), not {concept!r}")
    activations, known = torch.from_numpy(np.array(as_array(values))).double(), np.asarray(labels)
    if known.shape != (len(activations),):
        raise ValueError(f"there are {len(activations)} rows of values, but labels have the shape {known.shape}")
    if answer is None and not isinstance(target, (int, np.integer)):
        raise TypeError(f"say with answer= which output of the model stands for {target!r}")
    number = int(target) if answer is None else answer
    of_source, of_target = (_moments(activations, known == name, concept.axis, name) for name in (source, target))
    scale = torch.where(of_source[1] > 0, of_target[1] / of_source[1].clamp_min(1e-30), 0)
    amount = of_target[0] - scale * of_source[0] + beta * (of_target[0] - of_source[0])
    chosen = list(range(len(scale))) if units is None else as_ids(units)
    shuffled = np.random.default_rng(random_state).permutation(chosen)
    mixed, other = scale.clone(), amount.clone()
    mixed[chosen], other[chosen] = scale[shuffled], amount[shuffled]

    def answers(change: Along | None) -> np.ndarray:
        if change is None:
            return _answers(model, data, output, batch_size, number)
        with intervene(model, {layer: {tuple(chosen): change}}, concepts=concept):
            return _answers(model, data, output, batch_size, number)

    before = answers(None)
    others = before != number
    if not others.any():
        raise ValueError(f"the model gives {number} for all samples as they are: there is nothing to change")
    success, control = (
        float((answers(change)[others] == number).mean()) for change in (Along(amount, scale), Along(other, mixed))
    )
    control = control if len(chosen) > 1 else float("nan")
    return ShiftedClass(success, *_wilson(success, int(others.sum())), control, int(others.sum()))


def _moments(activations: Tensor, rows: np.ndarray, axis: int, name: Any) -> tuple[Tensor, Tensor]:
    """[units] each, mean and deviation over the rows of a class and all positions."""
    if not rows.any():
        raise ValueError(f"no row of values is of class {name!r}")
    own = activations[torch.from_numpy(rows)].movedim(axis, 1).flatten(2) if activations.ndim > 2 else (
        activations[torch.from_numpy(rows)][..., None]
    )
    return own.mean((0, 2)), own.std((0, 2), correction=0)


def _answers(model: nn.Module, data: Any, output: OutputChoice, batch_size: int, number: int) -> np.ndarray:
    """[B], the largest output of each sample."""
    device, found = device_of(model), []
    with torch.no_grad():
        for first in range(0, count_samples(data), batch_size):
            part = map_tensors(lambda tensor: tensor[first:first + batch_size], data)
            chosen = select_output(call_model(model, copied_inputs(part, device)), output, "y")
            if chosen.ndim != 2:
                raise ValueError(f"the output has the shape {tuple(chosen.shape)}, not [samples, classes]")
            if not 0 <= number < chosen.shape[1]:
                raise IndexError(f"output {number} is out of range: outputs are 0 to {chosen.shape[1] - 1}")
            found.append(chosen.argmax(1).cpu().numpy())
    return np.concatenate(found)


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Interval of 95 % of a share (E. B. Wilson, 1927)."""
    z = 1.959964
    centre = (share + z ** 2 / (2 * count)) / (1 + z ** 2 / count)
    half = z * np.sqrt(share * (1 - share) / count + z ** 2 / (4 * count ** 2)) / (1 + z ** 2 / count)
    return float(centre - half), float(centre + half)
