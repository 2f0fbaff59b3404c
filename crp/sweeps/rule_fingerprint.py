"""What a composite does, told by how its rules answer fixed numbers.

The parameters of zennit's rules hide in closures, and equal rules can be written in many ways. So each rule is attached
to a small module of the kind it is meant for, and what it sends back is the fingerprint.
"""
from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from zennit.core import Composite, Hook
from zennit.layer import Sum

from crp.store.fingerprint import fingerprint

_LINEAR = {
    nn.Linear: ((3, 2), (2, 3)),
    nn.Conv1d: ((2, 3, 2), (1, 2, 4)),
    nn.Conv2d: ((3, 2, 2), (1, 3, 4, 4)),  # as many channels as colours, for which boxes may have bounds
    nn.Conv3d: ((2, 3, 2), (1, 2, 3, 3, 3)),
    nn.ConvTranspose1d: ((2, 3, 2), (1, 2, 4)),
    nn.ConvTranspose2d: ((2, 3, 2), (1, 2, 4, 4)),
    nn.ConvTranspose3d: ((2, 3, 2), (1, 2, 3, 3, 3)),
}
_OPERATIONS = (nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.MaxPool2d(2), nn.Upsample(scale_factor=2), Sum())
_SHAPES = ((1, 2, 8, 8), (1, 2, 8), (2, 8), (1, 2, 8, 8, 8))


def composite_fingerprint(composite: Composite, model: nn.Module) -> dict[str, Any]:
    """What a composite does to a model.

    Returns
    -------
    dict
        Its class, its canonizers, and for each module or kind of operation with a rule the name of the rule and a hash
        of its answer.
    """
    context: dict = {}
    rules = {name: (composite.module_map(context, name, module), module) for name, module in model.named_modules()}
    known: dict[tuple, tuple[Hook, str]] = {}
    return {
        "class": type(composite).__name__, "rules": _answers(rules, known),
        "operations": _answers(_rules_of_operations(composite, context), known),
        "canonizers": [f"{type(item).__name__} {fingerprint(item)[:16]}" for item in composite.canonizers],
    }


def _rules_of_operations(composite: Composite, context: dict) -> dict[str, tuple[Hook | None, nn.Module]]:
    """Rules for operations outside modules, such as ``functional.linear``: for the first of a kind, and for later ones.

    Composites are asked for them with a module that does the same (see ``crp.rules.operations.modules``).
    """
    examples = [*(nn.utils.skip_init(kind, *sizes) for kind, (sizes, _) in _LINEAR.items()), *_OPERATIONS]
    return {
        f"{when} {type(module).__name__}": (composite.module_map(copy.copy(asked), "", module), module)
        for when, asked in (("first", {}), ("later", context)) for module in examples
    }


def _answers(rules: dict[str, tuple[Hook | None, nn.Module]], known: dict[tuple, tuple[Hook, str]]) -> dict[str, str]:
    """Name and answer of each rule; ``known`` holds those of rules that were asked before with a module of a kind."""
    answers = {}
    for name, (rule, module) in rules.items():
        if rule is not None:
            key = id(rule), _kind(module)
            if key not in known:
                known[key] = rule, f"{type(rule).__name__} {_answer(rule, module)}"
            answers[name] = known[key][1]
    return answers


def _kind(module: nn.Module) -> Any:
    return type(module) if _linear_kind(module) else id(module)


def _linear_kind(module: nn.Module) -> type | None:
    return next((kind for kind in _LINEAR if isinstance(module, kind)), None)


def _answer(rule: Hook, module: nn.Module) -> str:
    """A hash of what a rule sends back, to six digits; of how it is written, where it fits none of the probes."""
    for probe, shapes in _probes(module):
        for shape in shapes:
            try:
                return _answer_to(rule, probe, shape)
            except Exception:  # whatever a module or rule raises at a shape that does not fit
                continue
    return fingerprint(rule)[:16]


def _probes(module: nn.Module) -> Iterator[tuple[nn.Module, tuple]]:
    """Small modules of the same kind, or of one that shows what rules for it do, and shapes of inputs that may fit."""
    kind = _linear_kind(module)
    if kind is not None:
        yield _linear_probe(kind, *_LINEAR[kind])
    elif module._modules or module._parameters or module._buffers:
        yield _linear_probe(nn.Linear, (3, 3), (2, 3))
        yield nn.Identity(), _SHAPES
    else:
        yield copy.deepcopy(module), _SHAPES


def _linear_probe(kind: type[nn.Module], sizes: tuple, shape: tuple[int, ...]) -> tuple[nn.Module, tuple]:
    probe = nn.utils.skip_init(kind, *sizes, dtype=torch.float64)
    for parameter in probe.parameters():
        parameter.data = _numbers(parameter.shape, 0.7)
    return probe, (shape,)


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
