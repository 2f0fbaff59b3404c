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
FACTORIES = named(
    "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like", "new_empty",
    "new_zeros", "new_ones", "new_full", "new_tensor", "new_empty_strided",
)
"""Functions that take nothing but shape and type from a tensor."""

_EMBEDDING = named("embedding")
_BY_INDEX = named("gather", "take_along_dim")


def set_origin(tensor: Tensor, origin: Origin | Callable[[], Origin | None] | None, sources: frozenset[int]) -> None:
    """Let a tensor's elements stand for those of some tensors of the data; None where it is not known for which.

    A function is called when the origin is asked for.
    """
    vars(tensor).update(origin=origin, sources=sources, version=tensor._version)


def is_of_data(value: Any) -> bool:
    """Whether a value is a tensor that was made of the data."""
    return isinstance(value, Tensor) and "sources" in vars(value)


def origin_of(tensor: Tensor) -> Origin:
    """The elements of the data for which those of a tensor stand; NOWHERE where that is not known."""
    origin = vars(tensor).get("origin")
    return _resolved(origin, tensor.shape)


def _resolved(origin: Any, shape: torch.Size) -> Origin:
    origin = origin() if callable(origin) else origin
    return torch.full(shape, NOWHERE) if origin is None else origin


def _bring_up_to_date(tensor: Tensor) -> None:
    """Set the origin by that of the whole, if a tensor has been written to through another view since."""
    if vars(tensor)["version"] == tensor._version:
        return
    whole, origin = tensor._base, None
    if whole is not None and is_of_data(whole) and vars(whole)["version"] == whole._version:
        origin = _shown_by(tensor, _origin_in_memory(whole)).clone()
    set_origin(tensor, origin, vars(tensor)["sources"])


class TracedCall:
    """A call of a function with tensors that were made of the data; to be made before it writes to any.

    Parameters
    ----------
    function, args, kwargs

    Attributes
    ----------
    traced : list of torch.Tensor
        The tensors that were made of the data.
    sources : frozenset of int
        Numbers of the tensors of the data of which they were made.
    is_known : bool
        Whether it is known for which elements of the data theirs stand.
    """

    def __init__(self, function: Callable, args: tuple, kwargs: dict):
        self.function, self._arguments = function, (args, kwargs)
        self._leaves = flatten_tensors(self._arguments)
        out = kwargs.get("out")
        self._traced = [place for place, leaf in enumerate(self._leaves) if is_of_data(leaf) and leaf is not out]
        self._is_in_place = is_in_place(function) or function is Tensor.__setitem__
        self._written: Tensor | None = args[0] if self._is_in_place else out
        for place in self._traced:
            _bring_up_to_date(self._leaves[place])
        for place, leaf in enumerate(self._leaves):
            if leaf is self._written and leaf is not None:
                self._leaves[place] = keep_marks(leaf, leaf.clone())
        self.traced = [self._leaves[place] for place in self._traced]
        self.sources: frozenset[int] = frozenset().union(*(vars(tensor)["sources"] for tensor in self.traced))
        self._origins = [(vars(tensor)["origin"], tensor.shape) for tensor in self.traced]
        self.is_known = all(origin is not None for origin, _ in self._origins)
        self._reals = [leaf for leaf in self._leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]

    @property
    def casts_to_integers(self) -> bool:
        """Whether real numbers with an origin become integers."""
        source = self.traced[-1]
        if self.function not in CASTS or not source.is_floating_point():
            return False
        try:
            return _is_integer(self._run(self._traced[-1:], [source.detach().flatten()[:0]]))
        except Exception:  # of functions that expect other shapes
            return False

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
        if not self.is_known:
            return None
        is_coded = "is_code" in vars(index) and output.shape == index.shape and not output.requires_grad
        if is_coded or self.looks_up and self.function in _BY_INDEX:
            return _resolved(*self._origins[-1]).expand(output.shape), 0
        if self.looks_up and self.function in _EMBEDDING:
            return _resolved(*self._origins[-1]), 0
        return self._elements(output, [_within]) if self.looks_up else None

    def trace(self, output: Any) -> None:
        """Set the origin of what the function gave, or of what it wrote to."""
        written = self._written
        for number, result in enumerate(flatten_tensors(output) if written is None else [written]):
            is_new = isinstance(result, Tensor) and not any(result is leaf for leaf in self._leaves)
            if is_new and result.dtype != torch.bool and not result.is_complex():
                if self.traced[-1].is_floating_point():
                    self._follow_real_numbers(result, number)
                elif not result.is_floating_point():
                    self._follow_integers(result, number)
        if written is not None and is_of_data(written):
            _hand_on_to_whole(written)

    def _follow_real_numbers(self, result: Tensor, number: int) -> None:
        if self.function in CASTS | _ROUNDING:
            set_origin(result, _resolved(*self._origins[-1]), self.sources)
        elif self.function in ROUTING and self._written is None:
            shape = result.shape
            set_origin(result, lambda: self._moved(number, shape), self.sources)
        elif self.function in ROUTING:
            set_origin(result, self._moved(number, result.shape), self.sources)
        elif self._written is not None:
            vars(result).pop("sources", None)

    def _follow_integers(self, result: Tensor, number: int) -> None:
        if not self.is_known:
            set_origin(result, None, self.sources)
            return
        if self.function is functional.one_hot:
            set_origin(result, _resolved(*self._origins[0]).unsqueeze(-1).expand(result.shape), self.sources)
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
        if moved is not None or self._depends:
            set_origin(result, moved, self.sources)
        elif self._written is not None:
            set_origin(result, torch.full(result.shape, NOWHERE), self.sources)
        if moved is not None and is_code:
            vars(result)["is_code"] = True

    @property
    def _depends(self) -> bool:
        """Whether what the function gives changes with the integers, as far as others show."""
        try:
            kept = [self._kept[place] for place in self._traced]
            first, second = (self._run(self._traced, [x.roll(1) + by for x in kept]) for by in (0, 1))
            return not (_equal(first, self._run(self._traced, kept)) and _equal(first, second))
        except Exception:  # see below
            return True

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
        first, *others = (_resolved(*origin).expand(shape) for origin in self._origins)
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
        origins = torch.cat([_resolved(*origin).flatten() for origin in self._origins])
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
        kwargs = {name: value for name, value in kwargs.items() if name != "out"}
        if self._is_in_place:
            args = args[0].to(values[0].dtype, copy=True), *args[1:]
        output = self.function(*args, **kwargs)
        result = args[0] if self._is_in_place else flatten_tensors(output)[number]
        return result if self._reals else result.cpu()


def _hand_on_to_whole(view: Tensor) -> None:
    """Let what was written to a view have its origin in the tensor that it is a view of, too."""
    whole = view._base
    if whole is None:
        return
    in_memory = _origin_in_memory(whole)
    _shown_by(view, in_memory).copy_(origin_of(view))
    sources = vars(view)["sources"] | vars(whole).get("sources", frozenset())
    set_origin(whole, _shown_by(whole, in_memory).clone(), sources)


def _origin_in_memory(tensor: Tensor) -> Origin:
    """The origin of each place of a tensor's memory."""
    origin = torch.full((tensor.untyped_storage().nbytes() // tensor.element_size(),), NOWHERE)
    _shown_by(tensor, origin).copy_(origin_of(tensor))
    return origin


def _shown_by(tensor: Tensor, memory: Tensor) -> Tensor:
    """The part of a memory that a tensor shows, as a view."""
    return memory.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


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
