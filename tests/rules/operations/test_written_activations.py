"""Activation functions that a model writes out get the rule that they have as functions: relevance passes them."""
import math

import pytest
import torch
from operations_by_contribution import composite
from torch import nn
from torch.nn import functional

from crp.attribution import CondAttribution
from crp.composites import EpsilonPlus
from crp.rules.control_flow import step_by_step
from crp.rules.operations.choice import OperationRules
from crp.rules.operations.mode import OperationMode


def of_modules(x, relu6=nn.ReLU6()):  # noqa: B008
    return x * relu6(x + 3) / 6


def in_place(x):
    gate = x.clone()
    gate += 3
    return gate.clamp_(0, 6).mul_(x).div_(6)


def control_flow(x):
    return torch.vmap(lambda row: row * functional.relu6(row + 3) / 6)(x)


ACTIVATIONS = {
    "hardswish": lambda x: x * functional.relu6(x + 3) / 6,
    "of modules": of_modules,
    "hardswish, other order": lambda x: torch.mul(functional.hardtanh(3 + x, 0, 6) / 6, x),
    "hardswish, clamped": lambda x: x * ((x + 3).clamp(0, 6) / 6),
    "written to": lambda x: x * functional.relu6(x + 3, inplace=True) / 6,
    "in place": in_place,
    "control flow": control_flow,
    "hardsigmoid": lambda x: functional.relu6(x + 3) / 6,
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "gelu, tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3)))),
    "gelu, fast": lambda x: 0.5 * x * (1 + torch.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))),
    "gelu, quick": lambda x: x * torch.sigmoid(1.702 * x),
    "mish": lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))),
    "snake": lambda x: x + torch.sin(2 * x) ** 2 / 2,
    "squared relu": lambda x: x.clamp(min=0).square(),
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "tanh": lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
    "elu": lambda x: torch.where(x > 0, x, x.exp() - 1),
    "polynomial": lambda x: x * (x + 2),
    "constant tensors": lambda x: x * (x + torch.tensor(3.)).maximum(torch.zeros(1)).minimum(torch.tensor(6.)),
    "softsign": lambda x: x / (1 + x.abs()),
}


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.relu6 = function, nn.ReLU6()

    def forward(self, x):
        return self.function(x, self.relu6) if self.function is of_modules else self.function(x)


def relevance_through(function, x, relevance, rules=None, copy=False):
    model, leaf, rules = Function(function), x.clone().requires_grad_(), rules or EpsilonPlus()
    with rules.context(model), step_by_step(), OperationMode(model, OperationRules(rules, model, copy=copy)):
        output = model(leaf.clone())
    found, = torch.autograd.grad(output, leaf, relevance)
    return found, output


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype, error", [(torch.float64, 1e-9), (torch.bfloat16, 0.)])
def test_relevance_passes_as_it_passes_functions(name, dtype, error):
    torch.manual_seed(0)
    x = torch.cat([torch.randn(4, 3, 5), torch.zeros(1, 3, 5)]).to(dtype)
    relevance = torch.randint(-4, 5, x.shape).to(dtype)
    found, output = relevance_through(ACTIVATIONS[name], x, relevance, copy=dtype is torch.bfloat16)
    torch.testing.assert_close(output, ACTIVATIONS[name](x), rtol=0, atol=0)
    if name == "snake":  # which gives nothing where it is zero: no sum can be shared there
        relevance = relevance.masked_fill(x == 0, 0)
        found = found.masked_fill(x == 0, 0)
    torch.testing.assert_close(found, relevance, rtol=0, atol=error)


class Network(nn.Module):
    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, 3)
        self.activation = Function(function)

    def forward(self, x):
        x = self.activation(self.first(x))
        return self.last(self.activation(self.second(x)).mean((2, 3)))


@pytest.mark.parametrize("function, module", [
    (ACTIVATIONS["of modules"], functional.hardswish), (ACTIVATIONS["gelu"], functional.gelu),
])
@pytest.mark.parametrize("options", [{}, {"accelerate": False}, {"functional": "cp-lrp-gates"}])
def test_heatmaps_and_books_as_with_the_function(function, module, options):
    x = torch.randn(2, 1, 8, 8, dtype=torch.double)
    found = []
    for form in (function, module):
        attribution = CondAttribution(Network(form).double().eval(), **options)
        found.append(attribution(x, [{"y": [1]}], EpsilonPlus()).heatmap)
        assert attribution.audit(x, EpsilonPlus()).sinks["parameters"] == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-9)


W = torch.randn(5, 5, dtype=torch.double)


@pytest.mark.parametrize("function, share", [
    (lambda x: 2 * x + 3, lambda x: 2 * x / (2 * x + 3)),
    (lambda x: (2 * x + 3) @ W, None),
    (lambda x: (x * 2 + torch.full((5,), 3.).double()).relu(), lambda x: 2 * x / (2 * x + 3)),
    (lambda x: (x * 2 + nn.Parameter(torch.tensor([3.]).double())).relu(), lambda x: 2 * x / (2 * x + 3)),
], ids=["numbers alone", "a layer follows", "a shift for each channel", "a learnt shift"])
def test_what_is_no_activation_gives_constants_their_share(function, share):
    x = torch.rand(4, 5, dtype=torch.double) + 1
    relevance = torch.rand(4, 5, dtype=torch.double)
    found, output = relevance_through(function, x, relevance, composite())
    if share is None:
        assert found.sum() < .9 * relevance.sum()
    else:
        torch.testing.assert_close(found, relevance * share(x), rtol=.1, atol=0)


def test_gates_of_another_tensor_get_their_half():
    class Gated(nn.Module):
        def forward(self, x, y):
            return x * functional.silu(y), x * (1 + y.tanh())

    model = Gated()
    x, y = (torch.randn(4, 5, dtype=torch.double, requires_grad=True) for _ in range(2))
    for n in range(2):
        with OperationMode(model, OperationRules(EpsilonPlus(), model)):
            output = model(x.clone(), y.clone())[n]
        relevance = torch.randn_like(output)
        for found in torch.autograd.grad(output, (x, y), relevance):
            torch.testing.assert_close(found, relevance / 2)
