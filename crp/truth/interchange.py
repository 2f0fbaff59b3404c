"""Training by interchange: units carry the variables of a program, and all others nothing."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from crp.attribution.taps import tap_module
from crp.concepts import as_ids
from crp.model.inputs import call_model, count_samples, device_of, map_tensors
from crp.model.layers import resolve_layer, select_output
from crp.model.reproducible import reproducible
from crp.truth.guarantees import Guarantee, Guaranteed
from crp.truth.programs import Binding, Program
from crp.truth.scores import auroc

_PAIRS, _LEAST_CHANGED = 5000, .05


class Node(NamedTuple):
    """Units of a layer that carry a variable, or nothing.

    Attributes
    ----------
    layer : str
    units : list of int
    variable : str or None
    """

    layer: str
    units: list[int]
    variable: str | None


@dataclass(frozen=True, eq=False)
class InterchangeNetwork(Guaranteed):
    """A network of which it is known which units carry which variable of a program.

    Attributes
    ----------
    model : torch.nn.Module
        In evaluation mode.
    program : Program
    binding : dict
        Variable -> layer -> units.
    sizes : dict
        Layer -> number of its units.
    axes : dict
        Layer -> the axis of its units.
    held_out : tuple
        Inputs, and what the program reads, of samples that took no part in training.
    guarantees : tuple of Guarantee
        Accuracy; interchange accuracy of each variable: how often the network answers as the program does, if the units
        of a variable take their values of another input; and how often it answers the same if units that carry nothing
        do so, of each layer and of all. Each is at least 1.
    """

    model: nn.Module = field(repr=False)
    program: Program
    binding: dict[str, dict[str, list[int]]]
    sizes: dict[str, int]
    axes: dict[str, int]
    held_out: tuple[Any, Any] = field(repr=False)
    guarantees: tuple[Guarantee, ...]

    @property
    def layers(self) -> list[str]:
        """The layers of which is known what each unit carries."""
        return list(self.sizes)

    def auroc(self, scores: Mapping[str, Any]) -> float:
        """How well scores tell the units that carry variables from those that carry nothing.

        Parameters
        ----------
        scores : dict
            Layer -> [units], for all layers that are known.

        Raises
        ------
        TruthError
            If the guarantees do not hold.
        """
        self.check()
        for layer, size in self.sizes.items():
            if layer not in scores or len(scores[layer]) != size:
                raise ValueError(f"scores are of all {size} units of {layer!r}, and of {', '.join(self.layers)}")
        found = np.concatenate([np.asarray(scores[layer], float) for layer in self.layers])
        return auroc(found, torch.cat([self.used(layer) for layer in self.layers]))

    def node_auroc(self, scores: Iterable[float]) -> float:
        """How well scores of :attr:`nodes`, in their order, tell those that carry variables from the others.

        Raises
        ------
        TruthError
            If the guarantees do not hold.
        """
        self.check()
        return auroc(list(scores), [node.variable is not None for node in self.nodes])

    @property
    def nodes(self) -> list[Node]:
        """All units in groups: those of a variable; and idle ones, as many together as the least of these in the layer
        has, or a quarter of the layer where there are none.
        """
        found = []
        for layer, size in self.sizes.items():
            bound = [Node(layer, of[layer], variable) for variable, of in self.binding.items() if layer in of]
            step = min((len(node.units) for node in bound), default=max(size // 4, 1))
            idle = [unit for unit in range(size) if not self.used(layer)[unit]]
            found += bound
            found += [Node(layer, idle[first:first + step], None) for first in range(0, len(idle), step)]
        return found

    def used(self, layer: str, variables: Iterable[str] | None = None) -> Tensor:
        """[units] bool, which units of a layer carry some of the variables; by default any."""
        found = torch.zeros(self.sizes[layer], dtype=torch.bool)
        for variable in self.binding if variables is None else variables:
            found[self.binding[variable].get(layer, [])] = True
        return found


def interchange_train(
    model: nn.Module, program: Program, binding: Binding, data: Any, *, idle: Iterable[str] = (),
    axis: int | Mapping[str, int] = 1, epochs: int = 60, batch_size: int = 128, learning_rate: float = 5e-3,
    weight_decay: float = .3, held_out: float = .25, random_state: int = 0, verbose: bool = False,
) -> InterchangeNetwork:
    """Train a network to carry out a program with units that are bound to its variables, and no others.

    The network learns three things at once: to answer as the program does; to answer as the program would with another
    value of a variable, if the units of that variable take their values of another input; and to answer the same if
    units that are bound to nothing do so, alone or together. It stops when all this is so for 5,000 pairs of samples
    that are held out.

    Parameters
    ----------
    model : torch.nn.Module
        Is trained in place. Its outputs [B, classes] are for the classes that the program gives.
    program : Program
    binding : dict
        Variable -> layer -> its units. Several variables may share a layer, not a unit. Not every variable needs units.
    data : torch.Tensor, tuple or dict; or a pair (inputs, facts)
        The inputs of the model [N, ...]; a pair where the program reads something else, such as what is in an image.
    idle : iterable of str
        Further layers, all units of which shall carry nothing.
    axis : int or dict, default 1
        Axis of the units, for all layers or by layer: -1 for [B, T, C].
    epochs : int, default 60
        After which it gives up; the result then tells what does not hold.
    batch_size : int, default 128
    learning_rate : float, default 0.005
        The highest; it rises at first, and falls at the end.
    weight_decay : float, default 0.3
        Of AdamW; it lets go of what units carry that shall be idle.
    held_out : float, default 0.25
        Share of the samples that only tell when to stop, and what holds.
    random_state : int, default 0
        Seeds what is held out, the pairs and their order. Weights are the model's.
    verbose : bool, default False
        Whether to show a progress bar.

    Returns
    -------
    InterchangeNetwork

    Raises
    ------
    ValueError, TypeError, IndexError
        Before training, if the binding is of variables, layers or units that do not exist, or binds a unit twice; if a
        layer runs several times; or if the output does not depend on a variable, so that nothing can be learned of it.

    References
    ----------
    A. Geiger et al. (2022). Inducing Causal Structure for Interpretable Neural Networks. ICML.
    R. Gupta et al. (2024). InterpBench: Semi-Synthetic Transformers for Evaluating Mechanistic Interpretability
    Techniques. NeurIPS.
    """
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size are at least 1, not {epochs} and {batch_size}")
    inputs, facts = data if isinstance(data, tuple) and len(data) == 2 else (data, data)
    with reproducible(random_state):
        trainer = _Trainer(model, program, binding, inputs, facts, list(idle), axis, held_out)
        trainer.run(epochs, batch_size, learning_rate, weight_decay, verbose)
    return trainer.result()


class _Trainer:
    """Trains a network by interchange."""

    def __init__(
        self, model: nn.Module, program: Program, binding: Binding, inputs: Any, facts: Any, idle: list[str],
        axis: int | Mapping[str, int], held_out: float,
    ):
        self.model, self.program = model, program
        unknown = set(binding) - set(program.variables)
        if unknown or not binding:
            raise ValueError(f"binding is of variables of the program, {program.variables}, not {sorted(unknown)}")
        self.binding = {
            variable: {layer: as_ids(units) for layer, units in of_layers.items()}
            for variable, of_layers in binding.items()
        }
        if not all(units for of_layers in self.binding.values() for units in of_layers.values()):
            raise ValueError("a variable is bound to one unit of a layer at least")
        layers = dict.fromkeys([*(layer for of in self.binding.values() for layer in of), *idle])
        self.addresses = {layer: resolve_layer(model, layer) for layer in layers}
        if isinstance(axis, Mapping) and not set(axis) <= set(layers):
            raise ValueError(f"axis is of layers that are bound or idle, {', '.join(layers)}, not {sorted(axis)}")
        self.axes = {layer: axis.get(layer, 1) if isinstance(axis, Mapping) else axis for layer in layers}
        count = count_samples(inputs)
        if not 0 < held_out < 1 or count < 4 or len(program(facts)) != count:
            raise ValueError("held_out is a share between 0 and 1, and the program gives an output for each sample")
        device = device_of(model)
        self.inputs = map_tensors(lambda tensor: tensor.to(device), inputs)
        self.facts = map_tensors(lambda tensor: tensor.to(device), facts)
        order = torch.randperm(count)
        self.held, self.trained = (part.to(device) for part in order.split([max(2, round(held_out * count)),
                                                                            count - max(2, round(held_out * count))]))
        self.pairs = self.held[torch.randint(len(self.held), (2, _PAIRS))]
        self._check_program()
        self.nodes = self._nodes()
        self.guarantees: list[Guarantee] = []

    def _check_program(self) -> None:
        """Raise a ValueError for programs of which nothing can be learned."""
        output = self.program(self.facts)
        if output.is_floating_point() or output.ndim != 1:
            raise ValueError(f"the output of the program is classes [B], not {output.dtype} {tuple(output.shape)}")
        bases, sources = self.pairs
        for variable in self.binding:
            changed = (self._output(bases, variable, sources) != self._output(bases)).double().mean()
            if changed < _LEAST_CHANGED:
                raise ValueError(f"another value of {variable!r} changes the output in {float(changed):.1%} of pairs "
                                 "of samples: nothing can be learned of it")

    def _nodes(self) -> dict[str | None, list[Node]]:
        """Variable -> its units, layer by layer; None -> those that carry nothing."""
        self.model.eval()
        with torch.no_grad(), self._captured() as found:
            answers = self._answer(self.trained[:2])
        classes = int(self._output(torch.arange(len(self.held) + len(self.trained))).max()) + 1
        if answers.ndim != 2 or answers.shape[1] < classes:
            raise ValueError(f"the model gives {tuple(answers.shape[1:])} outputs, the program {classes} classes")
        missing = [layer for layer in self.addresses if layer not in found]
        if missing:
            raise ValueError(f"layer {missing[0]!r} is not used in the forward pass of the model")
        for layer, axis in self.axes.items():
            shape = tuple(found[layer].shape)
            if not -len(shape) < axis < len(shape) or axis == 0:
                raise ValueError(f"layer {layer!r} has the shape {shape}: axis {axis} holds no units")
        self.sizes = {layer: found[layer].shape[self.axes[layer]] for layer in self.addresses}
        nodes: dict[str | None, list[Node]] = {
            variable: [Node(layer, units, variable) for layer, units in of.items()]
            for variable, of in self.binding.items()
        }
        nodes[None] = []
        for layer, size in self.sizes.items():
            bound = [unit for of in self.binding.values() for unit in of.get(layer, [])]
            if len(set(bound)) < len(bound) or not set(bound) <= set(range(size)):
                raise IndexError(f"layer {layer!r} has the units 0 to {size - 1}, each of which is bound at most once, "
                                 f"not {sorted(bound)}")
            free = sorted(set(range(size)) - set(bound))
            nodes[None] += [Node(layer, free, None)] if free else []
        return nodes

    def run(
        self, epochs: int, batch_size: int, learning_rate: float, weight_decay: float, verbose: bool
    ) -> None:
        """Train until all holds, or the epochs are over."""
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=learning_rate, weight_decay=weight_decay)
        steps = epochs * -(-len(self.trained) // batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=.1)
        bar = tqdm(range(epochs), disable=not verbose, desc="interchange training")
        for _ in bar:
            self.model.train()
            for batch in self.trained[torch.randperm(len(self.trained))].split(batch_size):
                optimizer.zero_grad()
                self._loss(batch).backward()
                optimizer.step()
                schedule.step()
            self.model.eval()
            broken = next((guarantee for guarantee in self._measured() if not guarantee.holds), None)
            if broken is None:
                break
            bar.set_postfix_str(str(broken))
        bar.close()
        optimizer.zero_grad()
        self.guarantees = list(self._measured())

    def _loss(self, bases: Tensor) -> Tensor:
        """Of plain answers, of those with the units of a variable as they are for other inputs, and of those with some
        or all of the units that carry nothing as they are for these.
        """
        sources = self.trained[torch.randint(len(self.trained), (len(bases),))]
        with self._captured() as found:
            self._answer(sources)
        variable = list(self.binding)[int(torch.randint(len(self.binding), ()))]
        share = 1 if torch.rand(()) < .5 else .5
        idle = [node for node in self.nodes[None] if torch.rand(()) < share]
        plain = self._output(bases)
        expected = torch.cat([plain, self._output(bases, variable, sources), plain])
        with self._exchanged([[], self.nodes[variable], idle], found):
            return functional.cross_entropy(self._answer(bases.repeat(3)), expected)

    def _measured(self) -> Iterator[Guarantee]:
        """What holds of samples that are held out, each with another one."""
        bases, sources = self.pairs
        with torch.no_grad():
            with self._captured() as found:
                self._answer(sources)

            def share(nodes: list[Node], expected: Tensor) -> float:
                with self._exchanged([nodes], found):
                    return float((self._answer(bases).argmax(1) == expected).double().mean())

            plain = self._output(bases)
            yield Guarantee("accuracy", share([], plain), 1)
            yield Guarantee("all idle units", share(self.nodes[None], plain), 1)
            for variable in self.binding:
                value = share(self.nodes[variable], self._output(bases, variable, sources))
                yield Guarantee(f"interchange accuracy of {variable}", value, 1)
            for node in self.nodes[None]:
                yield Guarantee(f"idle units of {node.layer}", share([node], plain), 1)

    def _output(self, bases: Tensor, variable: str | None = None, sources: Tensor | None = None) -> Tensor:
        """What the program gives, with a variable as it is for other samples."""
        given = {} if variable is None else {variable: self.program.values(_rows(self.facts, sources))[variable]}
        return self.program(_rows(self.facts, bases), **given)

    def _answer(self, numbers: Tensor) -> Tensor:
        return select_output(call_model(self.model, _rows(self.inputs, numbers)), None, "y")

    @contextmanager
    def _captured(self) -> Iterator[dict[str, Tensor]]:
        """What the layers give while the model runs."""
        found: dict[str, Tensor] = {}

        def keep(layer: str, tensor: Tensor) -> Tensor:
            if layer in found:
                raise ValueError(f"layer {layer!r} runs several times: its units have no single value")
            found[layer] = tensor.clone()  # the model may write to its own
            return tensor

        with ExitStack() as stack:
            for layer, address in self.addresses.items():
                stack.callback(tap_module(address, partial(keep, layer)).remove)
            yield found

    @contextmanager
    def _exchanged(self, parts: list[list[Node]], found: Mapping[str, Tensor]) -> Iterator[None]:
        """Let nodes have their units, in each part of a batch some, as they were for other inputs."""
        def exchange(layer: str, tensor: Tensor) -> Tensor:
            members = torch.zeros(len(parts), self.sizes[layer], dtype=torch.bool)
            for part, nodes in enumerate(parts):
                for node in nodes:
                    if node.layer == layer:
                        members[part, node.units] = True
            members = members.repeat_interleave(len(found[layer]), 0)
            shape = [1] * tensor.ndim
            shape[0], shape[self.axes[layer]] = members.shape
            others = found[layer].repeat(len(parts), *[1] * (tensor.ndim - 1))
            return torch.where(members.view(shape).to(tensor.device), others, tensor)

        with ExitStack() as stack:
            for layer, address in self.addresses.items():
                stack.callback(tap_module(address, partial(exchange, layer)).remove)
            yield

    def result(self) -> InterchangeNetwork:
        """What is known of the network now."""
        held_out = _rows(self.inputs, self.held), _rows(self.facts, self.held)
        return InterchangeNetwork(
            self.model, self.program, self.binding, self.sizes, self.axes, held_out, tuple(self.guarantees)
        )


def _rows(data: Any, numbers: Tensor | None) -> Any:
    return map_tensors(lambda tensor: tensor[numbers], data)
