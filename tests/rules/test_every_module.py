"""The books close for every module in PyTorch's own table of them, with the inputs that PyTorch tests it with."""
import warnings

import pytest
import torch
from torch import nn
from torch.testing._internal.common_modules import module_db
from zennit.composites import EpsilonPlus
from zennit.core import Composite
from zennit.rules import Epsilon
from zennit.types import Linear

from crp.attribution import CondAttribution
from crp.model.layers import flatten_tensors, unflatten_tensors

EXCUSED = {"Embedding": "takes integers; tests/attribution/test_inputs.py has them"}
MODULES = [info for info in module_db if info.module_cls.__name__ not in EXCUSED]
EPSILON_RULE = Composite(lambda context, name, module: Epsilon(1e-9) if isinstance(module, Linear) else None)


class Behind(nn.Module):
    """A module behind a layer that gives its first tensor of real numbers [N]; all of what it gives, in a row."""

    def __init__(self, module, arguments):
        super().__init__()
        self.module, self.arguments = module, arguments
        self.leaves = flatten_tensors(arguments)
        self.place = next(i for i, leaf in enumerate(self.leaves) if _is_real(leaf))
        self.x = self.leaves[self.place].detach().flatten()[None, None]
        self.layer = nn.Conv1d(1, 1, 1, bias=False, dtype=torch.float64)
        nn.init.ones_(self.layer.weight)

    def forward(self, x):
        leaves = [leaf.detach() if isinstance(leaf, torch.Tensor) else leaf for leaf in self.leaves]
        leaves[self.place] = self.layer(x)[0, 0].view(leaves[self.place].shape)
        args, kwargs = unflatten_tensors(self.arguments, leaves)
        found = flatten_tensors(self.module(*args, **kwargs))
        return torch.cat([leaf.flatten() for leaf in found if _is_real(leaf)])[None]


def _is_real(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def behind(info):
    """A module in evaluation, with the first of its inputs that have a gradient."""
    for sample in info.module_inputs_func(info, "cpu", torch.float64, requires_grad=True, training=False):
        made, given = sample.constructor_input, sample.forward_input
        if given is not None and any(map(_is_real, flatten_tensors([given.args, given.kwargs]))):
            module = info.module_cls(*made.args, **made.kwargs).double()
            model = Behind(module, (tuple(given.args), given.kwargs)).eval()
            output = model(model.x.requires_grad_())
            if output.requires_grad and output.isfinite().all():
                return model
    return None


@pytest.mark.slow
@pytest.mark.parametrize("composite", [EPSILON_RULE, EpsilonPlus()], ids=["epsilon", "plus"])
@pytest.mark.parametrize("info", MODULES, ids=lambda info: info.module_cls.__name__)
def test_the_books_close(info, composite):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = behind(info)
        size = model(model.x).shape[1]
        audit = CondAttribution(model).audit(model.x, composite, [{"y": list(range(size))}])
    magnitude = 1 + sum(map(abs, audit.sinks.values()))
    assert audit.accounted == pytest.approx(1, abs=1e-6 * magnitude), audit
    assert not audit.faults, audit
