"""Which modules do something else in training than in use."""
from __future__ import annotations

import types

from torch import nn


def modules_in_training(model: nn.Module) -> list[str]:
    """Names of the modules that are in train mode and whose code asks for that, such as dropout and batch norms."""
    return [name for name, module in model.named_modules() if module.training and _asks_for_mode(type(module))]


def _asks_for_mode(kind: type) -> bool:
    """Whether code of a class, or of those that it is made of, reads ``self.training``."""
    own = [vars(cls) for cls in kind.__mro__ if cls not in nn.Module.__mro__]
    functions = [value for members in own for value in members.values() if isinstance(value, types.FunctionType)]
    return any(_mentions(function.__code__) for function in functions)


def _mentions(code: types.CodeType) -> bool:
    nested = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return "training" in code.co_names or any(map(_mentions, nested))
