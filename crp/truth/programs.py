"""Programs of a few variables, which networks can be trained to carry out."""
from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

INPUTS, OUTPUT = "inputs", "output"


class Program:
    """A causal model: variables that are computed from the inputs or from each other, and an output.

    Parameters
    ----------
    **functions : callable
        Variable -> how to compute it, for a batch; its parameters name what it is computed of: ``inputs``, or other
        variables. ``output`` gives the classes [B].

    Raises
    ------
    ValueError
        If there is no output, a variable is called ``inputs``, a name is unknown, or variables need each other.

    Examples
    --------
    >>> import torch
    >>> from crp.truth import Program
    >>> program = Program(
    ...     first=lambda inputs: inputs[:, 0], second=lambda inputs: inputs[:, 1],
    ...     total=lambda first, second: (first + second) % 5, output=lambda total: total,
    ... )
    >>> program(torch.tensor([[1, 2], [4, 4]]))
    tensor([3, 3])
    >>> program(torch.tensor([[1, 2], [4, 4]]), first=torch.tensor([0, 0]))
    tensor([2, 4])
    """

    def __init__(self, **functions: Callable[..., Tensor]):
        if OUTPUT not in functions or INPUTS in functions:
            raise ValueError(f"a program has a function {OUTPUT!r}, and no variable {INPUTS!r}: its data are called so")
        self._needs = {name: _needed_by(function) for name, function in functions.items()}
        for name, needed in self._needs.items():
            unknown = [each for each in needed if each not in functions and each != INPUTS]
            if unknown:
                raise ValueError(f"{name!r} is computed of {unknown[0]!r}, which is no variable of the program")
        self._functions = {name: functions[name] for name in self._in_order()}

    def __repr__(self) -> str:
        parts = [f"{name} of {', '.join(self._needs[name])}" for name in self._functions]
        return f"Program({'; '.join(parts)})"

    @property
    def variables(self) -> list[str]:
        """Names of the variables, each after those that it is computed of; without the output."""
        return [name for name in self._functions if name != OUTPUT]

    def __call__(self, inputs: Any, **given: Tensor) -> Tensor:
        """The output [B] for inputs, where some variables have given values instead."""
        return self.values(inputs, **given)[OUTPUT]

    def values(self, inputs: Any, **given: Tensor) -> dict[str, Tensor]:
        """All variables and the output for inputs, where some variables have given values instead.

        Raises
        ------
        TypeError
            If the program has no such variable.
        """
        unknown = set(given) - set(self._functions)
        if unknown:
            raise TypeError(f"the program has the variables {', '.join(self.variables)}, and no {min(unknown)!r}")
        found: dict[str, Any] = {INPUTS: inputs}
        for name, function in self._functions.items():
            found[name] = given[name] if name in given else torch.as_tensor(
                function(**{each: found[each] for each in self._needs[name]})
            )
        del found[INPUTS]
        return found

    def _in_order(self) -> list[str]:
        order: list[str] = []
        while len(order) < len(self._needs):
            ready = [name for name, needed in self._needs.items()
                     if name not in order and set(needed) <= {*order, INPUTS}]
            if not ready:
                raise ValueError(f"variables need each other: {', '.join(sorted(set(self._needs) - set(order)))}")
            order += ready
        return order


def _needed_by(function: Callable[..., Tensor]) -> list[str]:
    """What a function is computed of: its parameters that have no default."""
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is parameter.empty]


Binding = Mapping[str, Mapping[str, Any]]
"""Variable -> layer -> the units that carry it."""
