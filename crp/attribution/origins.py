"""Which element of the data an element of a tensor stands for: integers, on their way to what they look up.

Integers carry no gradient, so what they go through is tried out with other numbers. A function that treats each element
by itself gives the same for some of them as for all, in any order; one that moves elements moves their numbers as well.
"""
from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from crp.model.layers import flatten_tensors, unflatten_tensors
from crp.model.rows import keep_marks
from crp.rules.operations.call import named
from crp.rules.operations.rule import is_in_place
from crp.rules.operations.table import CASTS, ROUTING

Origin: TypeAlias = Tensor
"""Numbers of elements of the data, on the CPU; NOWHERE for none."""

NOWHERE = -1

_ROUNDING = named("round", "floor", "ceil", "trunc", "fix")
_EMBEDDING = named("embedding")
_BY_INDEX = named("gather", "take_along_dim")


def set_origin(tensor: Tensor, origin: Origin | Callable[[], Origin | None] | None) -> None:
    """Let a tensor's elements stand for those of the data, or for none; a function is called when it is asked for."""
    if origin is None:
        vars(tensor).pop("origin", None)
    else:
        vars(tensor).update(origin=origin, version=tensor._version)


def has_origin(value: Any) -> bool:
    """Whether the elements of a tensor stand for those of the data."""
    return isinstance(value, Tensor) and "origin" in vars(value)


def is_outdated(tensor: Tensor) -> bool:
    """Whether a tensor was written to through another view since its origin was set."""
    return vars(tensor)["version"] != tensor._version


def origin_of(tensor: Tensor) -> Origin:
    """The elements of the data for which those of a tensor stand."""
    origin = vars(tensor).get("origin")
    if callable(origin):
        origin = origin()
    origin = torch.full(tensor.shape, NOWHERE) if origin is None else origin
    set_origin(tensor, origin)
    return origin


class TracedCall:
    """A call of a function with tensors that have an origin; to be made before it writes to any.

    Parameters
    ----------
    function, args, kwargs

    Attributes
    ----------
    traced : list of torch.Tensor
        The tensors with an origin.
    is_outdated : bool
        Whether one of them was written to through another view since its origin was set.
    """

    def __init__(self, function: Callable, args: tuple, kwargs: dict):
        self.function, self._arguments = function, (args, kwargs)
        self._leaves = flatten_tensors(self._arguments)
        self._traced = [place for place, leaf in enumerate(self._leaves) if has_origin(leaf)]
        self._written: Tensor | None = kwargs.get("out")
        if is_in_place(function) or function is Tensor.__setitem__:
            self._written = args[0]
        self.is_outdated = any(is_outdated(leaf) for leaf in self._leaves if has_origin(leaf))
        for place, leaf in enumerate(self._leaves):
            if leaf is self._written and leaf is not None:
                self._leaves[place] = keep_marks(leaf, leaf.clone())
        self.traced = [self._leaves[place] for place in self._traced]
        self._reals = [leaf for leaf in self._leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]

    @property
    def casts_to_integers(self) -> bool:
        """Whether real numbers with an origin become integers."""
        source = self.traced[0]
        if self.function not in CASTS or not source.is_floating_point():
            return False
        return _is_integer(self._run(self._traced, [source.detach().flatten()[:0]]))

    @property
    def looks_up(self) -> bool:
        """Whether integers with an origin choose among real numbers, in which none of the data are."""
        is_constant = all(real.is_leaf or not real.requires_grad for real in self._reals)
        is_choice = self.function in ROUTING and self.function not in CASTS
        return bool(self._reals) and is_constant and is_choice and not any(map(torch.is_floating_point, self.traced))

    def lookup(self, output: Any) -> tuple[Origin, int] | None:
        """If the output is what integers look up: their origins, and the first of their axes in the output."""
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        index = self.traced[-1]
        is_coded = "is_code" in vars(index) and output.shape == index.shape and not output.requires_grad
        if is_coded or self.looks_up and self.function in _BY_INDEX:
            return origin_of(index).expand(output.shape), 0
        if self.looks_up and self.function in _EMBEDDING:
            return origin_of(index), 0
        return self._elements(output, [_within]) if self.looks_up else None

    def trace(self, output: Any) -> None:
        """Set the origin of what the function gave, or of what it wrote to."""
        written = self._written
        for number, result in enumerate(flatten_tensors(output) if written is None else [written]):
            is_new = isinstance(result, Tensor) and not any(result is leaf for leaf in self._leaves)
            if is_new and result.dtype != torch.bool and not result.is_complex():
                if self.traced[0].is_floating_point():
                    self._follow_real_numbers(result, number)
                elif not result.is_floating_point():
                    self._follow_integers(result, number)
        if written is not None and not written.is_floating_point():
            _hand_on_to_whole(written)

    def _follow_real_numbers(self, result: Tensor, number: int) -> None:
        if self.function in CASTS | _ROUNDING:
            source = self.traced[0]
            set_origin(result, lambda: origin_of(source))
        elif self._written is None and self.function in ROUTING:
            shape = result.shape
            set_origin(result, lambda: self._moved(number, shape))
        else:
            set_origin(result, None)

    def _follow_integers(self, result: Tensor, number: int) -> None:
        if self.function is functional.one_hot:
            set_origin(result, origin_of(self.traced[0]).unsqueeze(-1).expand(result.shape))
            vars(result)["is_code"] = True
            return
        moved = self._moved(number, result.shape, result)
        found = None if moved is not None or number > 0 else self._elements(result, [_numbered, _within], True)
        is_code = any("is_code" in vars(tensor) for tensor in self.traced)
        if found is not None:
            origin, start = found
            last = result.ndim - origin.ndim - start
            moved = origin.view(*[1] * start, *origin.shape, *[1] * last).expand(result.shape)
            is_code |= result.ndim > origin.ndim
        set_origin(result, moved)
        if moved is not None and is_code:
            vars(result)["is_code"] = True

    def _elements(
        self, output: Tensor, ways: Sequence[Callable[[Tensor], Tensor]], depends: bool = False
    ) -> tuple[Origin, int] | None:
        """If each integer is treated by itself: the origins of those, and the first of their axes in the output."""
        integers = [i for i, leaf in enumerate(self._leaves) if isinstance(leaf, Tensor) and _is_integer(leaf)]
        for places, renumber in itertools.product((self._traced, integers), ways):
            start = self._first_axis(places, output, renumber, depends)
            if start is not None:
                origin = self._common_origin(places)
                return None if origin is None else (origin, start)
        return None

    def _first_axis(
        self, places: list[int], output: Tensor, renumber: Callable[[Tensor], Tensor], depends: bool
    ) -> int | None:
        """Where the axes of some arguments begin in the output, if the function treats each element by itself."""
        try:
            tensors = torch.broadcast_tensors(*(self._kept[place] for place in places))
            shape, count = tensors[0].shape, tensors[0].numel()
            numbers = [
                renumber(x.flatten()) if place in self._traced else x.flatten() for place, x in zip(places, tensors)
            ]
            order = torch.randperm(count, generator=torch.Generator().manual_seed(count)).to(tensors[0].device)
            whole = self._run(places, [x.view(shape) for x in numbers])
            found = self._run(places, numbers)
            first_half = self._run(places, [x[:(count + 1) // 2] for x in numbers])
            shuffled = self._run(places, [x[order] for x in numbers])
            others = [x.roll(1) if place in self._traced else x for place, x in zip(places, numbers)]
            if whole.shape != output.shape or depends and _equal(self._run(places, others), found):
                return None
        except Exception:  # whatever functions raise that expect other shapes or numbers
            return None
        for start in range(output.ndim - len(shape) + 1):
            flattened = *output.shape[:start], count, *output.shape[start + len(shape):]
            if (
                output.shape[start:start + len(shape)] == shape and found.shape == flattened
                and _equal(whole.reshape(flattened), found)
                and _equal(first_half, found.narrow(start, 0, (count + 1) // 2))
                and _equal(shuffled, found.index_select(start, order))
            ):
                return start
        return None

    def _common_origin(self, places: list[int]) -> Origin | None:
        """The origin of the elements of some arguments; None where they stand for several elements of the data."""
        shape = torch.broadcast_shapes(*(self._kept[place].shape for place in places))
        first, *others = (origin_of(tensor).expand(shape) for tensor in self.traced)
        return first if all(torch.equal(first, other) for other in others) else None

    def _moved(self, number: int, shape: torch.Size, result: Tensor | None = None) -> Origin | None:
        """Origins of what a function gives that moves elements; None if it does something else, or gives none of them.

        Parameters
        ----------
        number : int
            Of the output, among those of the function.
        shape : torch.Size
            Of the output.
        result : torch.Tensor, optional
            The output, to be compared with what seems to have moved.
        """
        try:
            tensors = [self._kept[place] for place in self._traced]
            count = sum(tensor.numel() for tensor in tensors)
            parts = torch.arange(1, count + 1).split([tensor.numel() for tensor in tensors])
            numbers = [part.view(tensor.shape) for part, tensor in zip(parts, tensors)]
            first = self._run(self._traced, numbers, number)
            second = self._run(self._traced, [x + count for x in numbers], number)
        except Exception:  # see above
            return None
        is_moved = second - first == count
        if first.shape != shape or not bool(is_moved.any()) or not bool((is_moved | (first == second)).all()):
            return None
        place = (first - 1).where(is_moved, 0)
        if not bool(((0 <= place) & (place < count)).all()):
            return None
        if result is not None:
            values = torch.cat([tensor.flatten() for tensor in tensors])
            if not torch.equal(values[place].where(is_moved, first).to(result.dtype), result.cpu()):
                return None
        origins = torch.cat([origin_of(tensor).flatten() for tensor in self.traced])
        return origins[place].where(is_moved, NOWHERE)

    @cached_property
    def _kept(self) -> list[Any]:
        """The arguments without graph; integers alone on the CPU, where a number out of bounds is an error."""
        kept = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        return kept if self._reals else [leaf.cpu() if isinstance(leaf, Tensor) else leaf for leaf in kept]

    def _run(self, places: list[int], values: list[Tensor], number: int = 0) -> Tensor:
        """What the function gives, or writes, for other tensors in some places."""
        leaves = list(self._kept)
        for place, value in zip(places, values):
            leaves[place] = value
        args, kwargs = unflatten_tensors(self._arguments, leaves)
        if self._written is not None and "out" in kwargs:
            kwargs = {name: value for name, value in kwargs.items() if name != "out"}
        elif self._written is not None:
            args = args[0].to(values[0].dtype, copy=True), *args[1:]
        output = self.function(*args, **kwargs)
        result = args[0] if self._written is not None and "out" not in self._arguments[1] else (
            flatten_tensors(output)[number]
        )
        return result if self._reals else result.cpu()


def _hand_on_to_whole(view: Tensor) -> None:
    """Let what was written to a view have its origin in the tensor that it is a view of, too."""
    whole = view._base
    if whole is None or not (has_origin(whole) or has_origin(view)):
        return
    places = torch.arange(whole.untyped_storage().nbytes() // whole.element_size())
    numbers = places.as_strided(whole.shape, whole.stride(), whole.storage_offset())
    chosen = places.as_strided(view.shape, view.stride(), view.storage_offset())
    origin = torch.full(places.shape, NOWHERE)
    origin[numbers] = origin_of(whole)
    origin[chosen] = origin_of(view)
    set_origin(whole, origin[numbers])


def _is_integer(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex()


def _numbered(integers: Tensor) -> Tensor:
    """Other integers, many of them different."""
    return torch.arange(len(integers), device=integers.device) % 61 + 1


def _within(integers: Tensor) -> Tensor:
    """Other integers from the largest to the smallest, which a table has."""
    steps = torch.arange(len(integers), device=integers.device)
    return integers.max() - steps * (steps + 1) // 2 % (integers.max() - integers.min() + 1)


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and bool(((first == second) | ((first != first) & (second != second))).all())
