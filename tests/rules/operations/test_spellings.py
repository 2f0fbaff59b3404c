"""A call that PyTorch takes gives the same under rules, however its arguments are spelled: as lists, sizes, by name."""
import inspect
import itertools

import numpy as np
import pytest
import torch
from operations_by_contribution import Function
from torch.nn import functional
from torch.testing._internal.common_methods_invocations import op_db
from zennit.core import Composite
from zennit.rules import Epsilon

from crp.attribution import CondAttribution
from crp.composites import EpsilonPlus
from crp.model.layers import flatten_tensors
from crp.rules.operations.choice import OperationRules
from crp.rules.operations.mode import OperationMode

OPERATIONS = [
    operation for operation in op_db
    if operation.name.startswith("nn.functional.") and operation.supports_autograd
    and operation.supports_dtype(torch.float64, "cpu") and "dropout" not in operation.name
]
EVERYWHERE = Composite(lambda context, name, module: Epsilon())


def spelled(value, sequence, whole, fraction):
    """A value with its sequences and numbers in other types."""
    if isinstance(value, (tuple, list)) and not any(isinstance(x, (torch.Tensor, tuple, list)) for x in value):
        return value if None in value and sequence is torch.Size else sequence(
            spelled(x, sequence, whole, fraction) for x in value
        )
    if isinstance(value, bool) or value is None:
        return value
    return whole(value) if isinstance(value, int) else fraction(value) if isinstance(value, float) else value


def spellings(function, args, kwargs):
    """Arguments in other types, and by name where the function says what they are called."""
    ways = (tuple, int, float), (list, int, float), (torch.Size, int, float), (tuple, np.int64, np.float64)
    try:
        names = [*inspect.signature(function).parameters][1:]
    except (TypeError, ValueError):
        names = []
    for way in ways:
        try:
            found = [spelled(value, *way) for value in args], {k: spelled(v, *way) for k, v in kwargs.items()}
        except TypeError:  # a size is of whole numbers
            continue
        yield found
        if len(names) >= len(args):
            yield [], dict(zip(names, found[0])) | found[1]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda op: f"{op.name}.{op.variant_test_name}".strip("."))
@pytest.mark.filterwarnings("ignore")
def test_what_a_call_gives_does_not_change(operation):
    tried = 0
    for sample in itertools.islice(operation.sample_inputs("cpu", torch.float64, requires_grad=False), 8):
        if not isinstance(sample.input, torch.Tensor) or not sample.input.is_floating_point():
            continue
        for args, kwargs in spellings(operation.op, sample.args, sample.kwargs):
            try:
                torch.manual_seed(0)
                expected = operation.op(sample.input, *args, **kwargs)
            except Exception:  # PyTorch does not take it
                continue
            model = Function(lambda x, args=args, kwargs=kwargs: operation.op(x, *args, **kwargs))
            x = sample.input.detach().clone().requires_grad_()
            with OperationMode(model, OperationRules(EVERYWHERE, model)) as mode:
                torch.manual_seed(0)
                found = model(x)
            mode.temporary.remove()
            pairs = zip(flatten_tensors(found), flatten_tensors(expected), strict=True)
            for ours, theirs in pairs:
                torch.testing.assert_close(ours, theirs, equal_nan=True)
            tried += 1
    assert tried


@pytest.mark.parametrize("options", [
    {"scale_factor": [2., 2.]}, {"scale_factor": (2., 2.)}, {"scale_factor": np.float64(2)}, {"size": [6, 6]},
    {"size": torch.Size([6, 6])}, {"scale_factor": 1.7, "recompute_scale_factor": True},
    {"size": [2, 2], "mode": "bicubic", "antialias": True},
])
def test_enlarging_within_a_model(options):
    class Enlarging(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.Conv2d(2, 3, 2)

        def forward(self, x):
            return self.last(functional.interpolate(self.first(x).relu(), **options)).mean((2, 3))

    torch.manual_seed(0)
    model, x = Enlarging().eval(), torch.rand(2, 1, 4, 4)
    result = CondAttribution(model)(x, [{"y": [0]}], EpsilonPlus())
    torch.testing.assert_close(result.prediction, model(x))
