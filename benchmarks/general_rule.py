"""The general rule of operations over their own forward and backward pass, on large tensors."""
import statistics

import torch
from common import Row, deviation, time_in_turn
from torch import nn
from torch.nn import functional
from zennit.core import Composite, Stabilizer
from zennit.rules import Epsilon

from crp.rules.operations.choice import OperationRules
from crp.rules.operations.mode import OperationMode

RULES = Composite(lambda context, name, module: Epsilon() if isinstance(module, nn.Linear) else None)
PLACES = torch.randint(1000, (8192,))
OPERATIONS = {
    "index_add": lambda x: torch.zeros(1000, 256).index_add(0, PLACES, x), "logsumexp": lambda x: x.logsumexp(1),
    "cdist": lambda x: torch.cdist(x[:1024], x[-1024:].detach()), "logcumsumexp": lambda x: x.logcumsumexp(1),
    "rfft": lambda x: torch.fft.rfft(x).real, "var": lambda x: x.var(1), "prod": lambda x: x.prod(1),
    "local_response_norm": lambda x: functional.local_response_norm(x[None], 5),
}


def measured(operation):
    """Ratios of seconds, and how far relevance is from ``x`` times the gradient of ``R / z``."""
    torch.manual_seed(0)
    x, model = torch.rand(8192, 256) + .5, nn.Identity()
    rules = OperationRules(RULES, model)

    def plain():
        leaf = x.detach().requires_grad_()
        z = operation(leaf * 1)
        return torch.autograd.grad(z, leaf, torch.ones_like(z))[0]

    def ours():
        leaf = x.detach().requires_grad_()
        with OperationMode(model, rules):
            z = operation(leaf.clone())
        return torch.autograd.grad(z, leaf, torch.ones_like(z))[0]

    leaf = x.detach().requires_grad_()
    z = operation(leaf * 1)
    gradient, = torch.autograd.grad(z, leaf, 1 / Stabilizer(1e-6)(z.detach()))
    found, = time_in_turn(ours, plain, repeats=7)
    return found, deviation(ours(), x * gradient)


if __name__ == "__main__":
    results = {name: measured(operation) for name, operation in OPERATIONS.items()}
    medians = [statistics.median(ratios) for ratios, _ in results.values()]
    for name, (ratios, _) in results.items():
        print(f"{name}: {statistics.median(ratios):.2f}")
    Row(
        f"general rule, {len(results)} operations on 8,192 x 256", "their forward and backward pass",
        statistics.median(medians), 2.5, (min(medians), max(medians)),
        deviation=max(error for _, error in results.values()),
    ).print()
