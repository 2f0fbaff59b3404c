"""Where relevance ends: the tensors of the data, and what integers among them look up."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from crp.attribution.origins import FACTORIES, NOWHERE, Origin, TracedCall, is_of_data, origin_of, set_origin
from crp.model.callbacks import call_reader
from crp.model.inputs import Inputs, list_tensors, map_tensors
from crp.model.rows import copy_rows
from crp.rules.operations.places import operation_name, source_line, warn_of_cast, warn_of_loss
from crp.rules.restoring import FunctionMode


@dataclass
class Lookup:
    """What integers looked up: a leaf of autograd.

    Attributes
    ----------
    tensor : torch.Tensor
        With an attribute ``feature_axis``, the axes that are not those of the integers.
    origin : torch.Tensor
        Of each integer: the number of the element of the data for which it stands; -1 for none.
    start : int
        The first axis of the integers.
    """

    tensor: Tensor
    origin: Origin
    start: int

    def by_integer(self, heatmap: Tensor) -> Tensor:
        """A heatmap of the tensor, with the axes of the integers first."""
        axes = range(self.origin.ndim)
        if heatmap.shape == self.tensor.shape:
            heatmap = heatmap.movedim([self.start + axis for axis in axes], list(axes))
        if heatmap.shape[:len(axes)] != self.origin.shape:
            raise ValueError(
                f"a heatmap of shape {tuple(heatmap.shape)} does not tell the {tuple(self.origin.shape)} integers "
                "apart that looked something up"
            )
        return heatmap


class InputLeaves:
    """The tensors of the data, and where their relevance ends.

    Real numbers are leaves of autograd, whose ``grad`` becomes the relevance. Integers have no gradient: what they look
    up is a leaf, and its relevance goes to the element of the data for which each integer stands.

    Parameters
    ----------
    data : torch.Tensor, tuple or dict
    reach : bool, default True
        Whether relevance shall reach the data; otherwise nothing becomes a leaf.

    Attributes
    ----------
    data : tensor, tuple or dict
        To call the model with, in :class:`LookupMode`. It shares no memory with the caller's tensors.
    lookups : list of Lookup
    """

    def __init__(self, data: Inputs, reach: bool = True):
        self._sources = [x.clone() if x.is_inference() else x.detach() for x in list_tensors(data)]
        self.reach, self.lookups = reach, list[Lookup]()
        sizes = [source.numel() for source in self._sources]
        self._ranges = [range(sum(sizes[:i]), sum(sizes[:i + 1])) for i in range(len(sizes))]
        remaining = iter([self._beginning(i) for i in range(len(sizes))])
        self.data = map_tensors(lambda _: next(remaining), data)

    def _beginning(self, number: int) -> Tensor:
        source, numbers = self._sources[number], self._ranges[number]
        if self.reach and source.is_floating_point():
            source.requires_grad_()
        beginning = copy_rows(source)
        if self.reach and source.dtype != torch.bool:
            shape = source.shape
            set_origin(
                beginning, lambda: torch.arange(numbers.start, numbers.stop).view(shape), frozenset([number])
            )
        return beginning

    @property
    def tensors(self) -> list[Tensor]:
        """The leaves of autograd."""
        reals = [source for source in self._sources if source.requires_grad]
        return [*reals, *(lookup.tensor for lookup in self.lookups)]

    @property
    def gradients(self) -> tuple[Tensor | None, ...]:
        """The relevance of each tensor of the data, where that are real numbers."""
        return tuple(
            self._relevance(source, numbers) if source.requires_grad else None
            for source, numbers in zip(self._sources, self._ranges)
        )

    @property
    def hold_integers(self) -> bool:
        """Whether there are integers among the data."""
        return any(not source.is_floating_point() and source.dtype != torch.bool for source in self._sources)

    def look_up(self, found: Tensor, origin: Origin, start: int) -> Tensor:
        """Let relevance end at what was looked up, and give what the model goes on with."""
        tensor = found.detach().requires_grad_()
        features = tuple(axis for axis in range(tensor.ndim) if not start <= axis < start + origin.ndim)
        vars(tensor)["feature_axis"] = -1 if features == (tensor.ndim - 1,) else features
        self.lookups.append(Lookup(tensor, origin, start))
        return tensor.clone()

    def have_looked_up(self, integers: Tensor) -> bool:
        """Whether something was looked up by what such integers stand for."""
        origin = origin_of(integers)
        return any(bool(torch.isin(lookup.origin, origin[origin != NOWHERE]).any()) for lookup in self.lookups)

    def look_up_more(self, sources: frozenset[int]) -> bool:
        """Whether some tensors of the data look something up, as far as is known."""
        return any(self._lookups_by(self._ranges[source]) for source in sources)

    def clear(self) -> None:
        """Forget the relevance of the last backward pass."""
        for tensor in self.tensors:
            tensor.grad = None

    def heatmaps(self, modify: Callable[[Tensor], Tensor]) -> list[Tensor | None]:
        """The heatmap of each tensor of the data; None where no relevance ends.

        Parameters
        ----------
        modify : callable
            Gives the heatmap of a leaf of autograd, whose ``grad`` holds its relevance.
        """
        for tensor in self.tensors:
            tensor.grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        return [
            self._of_real_numbers(source, numbers, modify) if source.requires_grad else
            self._of_integers(source, numbers, modify)
            for source, numbers in zip(self._sources, self._ranges)
        ]

    def _of_real_numbers(self, source: Tensor, numbers: range, modify: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = source.detach().requires_grad_()
        leaf.grad = self._relevance(source, numbers)
        return call_reader(modify, "heatmap_modifier", leaf)

    def _relevance(self, source: Tensor, numbers: range) -> Tensor:
        """Of real numbers: their own, and that of what they look up as integers."""
        relevance = cast(Tensor, source.grad)
        for lookup in self._lookups_by(numbers):
            by_integer = lookup.by_integer(cast(Tensor, lookup.tensor.grad))
            by_integer = by_integer.reshape(*lookup.origin.shape, -1).sum(-1)
            relevance = relevance + _placed(by_integer, lookup.origin, numbers, source).to(source)
        return relevance

    def _of_integers(self, source: Tensor, numbers: range, modify: Callable[[Tensor], Tensor]) -> Tensor | None:
        lookups = self._lookups_by(numbers)
        heatmaps = [modify(lookup.tensor) for lookup in lookups]
        as_it_is = torch.arange(numbers.start, numbers.stop).view(source.shape)
        if len(lookups) == 1 and torch.equal(lookups[0].origin, as_it_is):
            return heatmaps[0]
        placed = [
            _placed(lookup.by_integer(heatmap), lookup.origin, numbers, source)
            for lookup, heatmap in zip(lookups, heatmaps)
        ]
        if len({heatmap.shape for heatmap in placed}) > 1:
            raise ValueError(
                "heatmap_axis=None keeps the features of what integers look up, but those differ in number: "
                f"{[tuple(heatmap.shape[source.ndim:]) for heatmap in placed]}"
            )
        return sum(placed[1:], placed[0]) if placed else None

    def _lookups_by(self, numbers: range) -> list[Lookup]:
        """The lookups by integers that stand for some elements of the data."""
        return [lookup for lookup in self.lookups if bool(_is_within(lookup.origin, numbers).any())]


def _is_within(origin: Origin, numbers: range) -> Tensor:
    return (origin >= numbers.start) & (origin < numbers.stop)


def _placed(by_integer: Tensor, origin: Origin, numbers: range, source: Tensor) -> Tensor:
    """What each integer has [*origin.shape, ...], added up at the elements of the data [*source.shape, ...]."""
    rest = by_integer.shape[origin.ndim:]
    chosen = _is_within(origin, numbers)
    places = (origin[chosen] - numbers.start).to(by_integer.device)
    values = by_integer[chosen.to(by_integer.device)]
    total = by_integer.new_zeros(source.numel(), *rest).index_add(0, places, values)
    return total.view(*source.shape, *rest)


class LookupMode(FunctionMode):
    """Sees where integers of the data look something up, and lets relevance end there.

    Real numbers of which a model makes integers count as well.

    Parameters
    ----------
    leaves : InputLeaves
    """

    def __init__(self, leaves: InputLeaves):
        super().__init__()
        self.leaves = leaves
        self._casts: list[tuple[Tensor, str]] = []
        self._lost: list[tuple[frozenset[int], Callable, str]] = []

    def __exit__(self, kind: Any, *exception: Any) -> None:
        super().__exit__(kind, *exception)
        for integers, line in self._casts if kind is None else ():
            if not self.leaves.have_looked_up(integers):
                warn_of_cast(integers.dtype, line)
        for sources, function, line in self._lost if kind is None else ():
            if self.leaves.look_up_more(sources):  # else these are masks, or all is lost, which is an error
                reason = "for which of the data's integers others stand is not known"
                warn_of_loss(operation_name(function), reason, line)

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in FACTORIES or not any(map(_holds_data, (*args, *kwargs.values()))):
            return function(*args, **kwargs)
        if function in _BAGS:
            return self._look_up_bags(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            call = TracedCall(function, args, kwargs)
            if not call.traced:  # only written to
                return function(*args, **kwargs)
            if call.casts_to_integers:
                output = function(*args, **kwargs)
                call.trace(output)
                self._casts.append((output, source_line()))
                return output
        output = function(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            found = call.lookup(output)
            if found is not None:
                return self.leaves.look_up(output, *found)
            if call.looks_up:
                self._lost.append((call.sources, function, source_line()))
            call.trace(output)
        return output

    def _look_up_bags(self, input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Bags of embeddings, as bags of what each integer looks up."""
        with torch._C.DisableTorchFunction():
            rows = self.leaves.look_up(functional.embedding(input, weight), origin_of(input), 0)
            numbers = torch.arange(input.numel(), device=input.device).view(input.shape)
            rows, kwargs = rows.flatten(0, -2), {**kwargs, "sparse": False}
            if kwargs.get("padding_idx") is not None:
                numbers = numbers.masked_fill(input == kwargs["padding_idx"] % len(weight), len(rows))
                rows, kwargs = torch.cat([rows, rows.new_zeros(1, rows.shape[1])]), {**kwargs, "padding_idx": len(rows)}
        return functional.embedding_bag(numbers, rows, *args, **kwargs)


_BAGS = {functional.embedding_bag}


def _holds_data(value: Any) -> bool:
    return any(map(is_of_data, value)) if isinstance(value, (tuple, list)) else is_of_data(value)
