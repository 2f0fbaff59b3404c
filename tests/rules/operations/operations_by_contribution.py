"""Relevance that functions send back, and what their inputs contribute."""
import torch
from torch import nn
from zennit.core import Composite, Stabilizer
from zennit.layer import Sum
from zennit.rules import Epsilon, Norm
from zennit.types import AvgPool, Linear

from crp.rules.operations.choice import OperationRules
from crp.rules.operations.mode import OperationMode

EPSILON = .1
stabilize = Stabilizer(EPSILON)


def composite(rule=None):
    rules = [(Linear, rule or Epsilon(EPSILON)), ((Sum, AvgPool), Norm(EPSILON))]
    return Composite(lambda context, name, module: next((r for types, r in rules if isinstance(module, types)), None))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def send_back(function, inputs, relevance=None, attention="attnlrp", rules=None):
    """Relevance of the inputs of a function; what it gives; and the relevance of that, random by default."""
    model = Function(function)
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    with OperationMode(model, OperationRules(rules or composite(), model, attention)):
        output = model(*(leaf.clone() for leaf in leaves))
    relevance = torch.randn_like(output) if relevance is None else relevance
    return torch.autograd.grad(output, leaves, relevance, allow_unused=True), output.detach(), relevance


def by_contributions(function, inputs, relevance, share=1.):
    """``R_i = sum_o (f(.., x_i, ..)_o - f(0)_o) R_o / stabilized(z_o)`` for a function that is linear in its inputs."""
    z = function(*inputs)
    zeros = [torch.zeros_like(x) for x in inputs]
    results = []
    for n, x in enumerate(inputs):
        result = torch.zeros_like(x)
        for i in range(x.numel()):
            alone = list(zeros)
            alone[n] = torch.zeros_like(x)
            alone[n].view(-1)[i] = x.reshape(-1)[i]
            contribution = function(*alone) - function(*zeros)
            result.view(-1)[i] = share * (contribution * relevance / stabilize(z)).sum()
        results.append(result)
    return results


def random(*shape):
    return torch.randn(*shape, dtype=torch.double)
