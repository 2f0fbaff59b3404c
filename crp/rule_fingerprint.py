"""What a composite does, told by how its rules answer fixed numbers.

The parameters of zennit's rules hide in closures, and equal rules can be written in many ways. So each rule is attached
to a small module of the kind it is meant for, and what it sends back is the fingerprint.
"""
from __future__ import annotations

import copy
import hashlib
from typing import Any

import torch
from torch import nn
from zennit.core import Composite, Hook

from crp.fingerprint import fingerprint

_LINEAR = {
    nn.Linear: ((3, 2), (2, 3)),
    nn.Conv1d: ((2, 3, 2), (1, 2, 4)),
    nn.Conv2d: ((2, 3, 2), (1, 2, 4, 4)),
    nn.Conv3d: ((2, 3, 2), (1, 2, 3, 3, 3)),
    nn.ConvTranspose1d: ((2, 3, 2), (1, 2, 4)),
    nn.ConvTranspose2d: ((2, 3, 2), (1, 2, 4, 4)),
    nn.ConvTranspose3d: ((2, 3, 2), (1, 2, 3, 3, 3)),
}
_SHAPES = ((1, 2, 8, 8), (1, 2, 8), (2, 8), (1, 2, 8, 8, 8))


def composite_fingerprint(composite: Composite, model: nn.Module) -> dict[str, Any]:
    """What a composite does to a model.

    Returns
    -------
    dict
        Its class, its canonizers, and for each module with a rule the name of the rule and a hash of its answer.
    """
    context: dict = {}
    rules = {name: (composite.module_map(context, name, module), module) for name, module in model.named_modules()}
    known: dict[tuple, tuple[Hook, str]] = {}
    answers = {}
    for name, (rule, module) in rules.items():
        if rule is not None:
            key = id(rule), _kind(module)
            if key not in known:
                known[key] = rule, f"{type(rule).__name__} {_answer(rule, module)}"
            answers[name] = known[key][1]
    return {
        "class": type(composite).__qualname__, "rules": answers,
        "canonizers": [f"{type(item).__name__} {fingerprint(item)[:16]}" for item in composite.canonizers],
    }


def _kind(module: nn.Module) -> Any:
    return type(module) if _linear_kind(module) else id(module)


def _linear_kind(module: nn.Module) -> type | None:
    return next((kind for kind in _LINEAR if isinstance(module, kind)), None)


def _answer(rule: Hook, module: nn.Module) -> str:
    """A hash of what a rule sends back, to six digits; of how it is written, where it fits none of the shapes."""
    probe, shapes = _probe(module)
    for shape in shapes:
        try:
            return _answer_to(rule, probe, shape)
        except Exception:  # whatever a module or rule raises at a shape that does not fit
            continue
    return fingerprint(rule)[:16]


def _probe(module: nn.Module) -> tuple[nn.Module, tuple]:
    """A small module of the same kind, and shapes of inputs that may fit."""
    kind = _linear_kind(module)
    if kind is not None:
        sizes, shape = _LINEAR[kind]
        probe = nn.utils.skip_init(kind, *sizes, dtype=torch.float64)
        for parameter in probe.parameters():
            parameter.data = _numbers(parameter.shape, 0.7)
        return probe, (shape,)
    if module._modules or module._parameters or module._buffers:
        return nn.Identity(), _SHAPES
    return copy.deepcopy(module), _SHAPES


def _answer_to(rule: Hook, probe: nn.Module, shape: tuple[int, ...]) -> str:
    digest = hashlib.sha256()
    handles = rule.copy().register(probe)
    try:
        for scale in (1., 1e-6):  # the small one shows stabilizers
            x = (_numbers(shape, 1.) * scale).requires_grad_()
            with torch.enable_grad():
                output = probe(x)
                relevance, = torch.autograd.grad(output, x, _numbers(output.shape, 1.3))
            digest.update("".join(f"{value:.6g} " for value in relevance.flatten().tolist()).encode())
    finally:
        handles.remove()
    return digest.hexdigest()[:16]


def _numbers(shape: tuple[int, ...], step: float) -> torch.Tensor:
    """Fixed numbers of both signs."""
    count = torch.Size(shape).numel()
    return torch.sin(step * torch.arange(1, count + 1, dtype=torch.float64)).view(shape)
