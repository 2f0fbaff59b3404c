"""Parameters of modules, as they are and as rules modify them."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from zennit.core import ParamMod, zero_wrap

from crp.rules.linear import share_uniform


class ModifiedParameters:
    """Weight and bias as a rule modifies them; modified again when the module's have changed.

    Parameters
    ----------
    modifier : zennit.core.ParamMod or callable
        As in zennit's rules.
    sign : int
        With which to multiply them.
    """

    def __init__(self, modifier: ParamMod | Callable, sign: int = 1):
        self.modifier, self.sign = ParamMod.ensure(modifier), sign
        self._state: list | None = None
        self._sources: list[torch.Tensor | None] = []
        self._result: tuple[torch.Tensor | None, torch.Tensor | None, bool] = None, None, True

    def of(
        self, module: nn.Module | UsedParameters, dtype: torch.dtype
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, bool]:
        """Weight and bias (None if there is none or it is zero), and whether they are the module's own."""
        own = own_parameters(module)
        state = [dtype, *((None, 0) if tensor is None else (tensor.data_ptr(), tensor._version) for tensor in own)]
        if state != self._state:
            # The sources are held, so that no other tensor gets their memory while the result is valid.
            self._state, self._sources = state, own
            changed = [self._modify(tensor, name) for tensor, name in zip(own, ("weight", "bias"))]
            weight, bias = (None if tensor is None else tensor.to(dtype) for tensor in changed)
            are_own = all(new is old for new, old in zip(changed, own))
            weight = weight if weight is None else share_uniform(weight)
            self._result = weight, bias if bias is not None and bias.any() else None, are_own
        return self._result

    def _modify(self, parameter: torch.Tensor | None, name: str) -> torch.Tensor | None:
        keys = self.modifier.param_keys
        if parameter is not None and (keys is None or name in keys):
            parameter = zero_wrap(self.modifier.zero_params)(self.modifier.modifier)(parameter, name)
        return parameter if parameter is None or self.sign > 0 else -parameter


class UsedParameters:
    """Weight and bias that a module has while it is called: ``torch.func.functional_call`` replaces them for a while.

    Parameters
    ----------
    module : torch.nn.Module
    """

    def __init__(self, module: nn.Module):
        self.weight, self.bias = (getattr(module, name, None) for name in ("weight", "bias"))


def own_parameters(module: nn.Module | UsedParameters, dtype: torch.dtype | None = None) -> list[torch.Tensor | None]:
    """Weight and bias of a module, None where it has none."""
    parameters = (getattr(module, name, None) for name in ("weight", "bias"))
    return [None if parameter is None else parameter.detach().to(dtype or parameter.dtype) for parameter in parameters]
