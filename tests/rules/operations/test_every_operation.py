"""The books close for every operation in PyTorch's own table of them, with the inputs that PyTorch tests it with."""
import warnings

import pytest
import torch
from torch import nn
from torch.testing._internal.common_methods_invocations import op_db
from zennit.core import Composite, Stabilizer
from zennit.rules import Epsilon

from crp.attribution import CondAttribution
from crp.model.layers import flatten_tensors

EPSILON = 1e-12
EXCUSED = {
    "sparse.sampled_addmm": "gives sparse tensors of sparse tensors alone",
    "__rpow__": "gives NaN for its samples, powers of negative numbers",
}
ROUNDED = {"half", "bfloat16", "to"}  # autograd gives relevance of a tensor the type of the tensor
LAYERS = nn.Conv1d, nn.Linear
RULES = Composite(lambda context, name, module: Epsilon(EPSILON) if isinstance(module, LAYERS) else None)
KINDS = (torch.float64, torch.complex128)


def name_of(operation):
    return f"{operation.name}.{operation.variant_test_name}".strip(".")


OPERATIONS = [
    operation for operation in op_db
    if name_of(operation) not in EXCUSED and operation.supports_autograd
    and any(operation.supports_dtype(kind, "cpu") for kind in KINDS)
]


def real(tensor):
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


class Behind(nn.Module):
    """An operation behind a layer that gives its input [1, 1, N]: the values of tensors that carry relevance."""

    def __init__(self, operation, sample, all_carry):
        super().__init__()
        self.operation, self.sample = operation, sample
        tensors = flatten_tensors([sample.input, sample.args, sample.kwargs])
        carrying = [t for t in tensors if isinstance(t, torch.Tensor) and t.requires_grad and t.layout == torch.strided]
        self.carrying = carrying if all_carry else carrying[:1]
        self.layer = nn.Conv1d(1, 1, 1, bias=False, dtype=torch.float64)
        nn.init.ones_(self.layer.weight)

    @property
    def x(self):
        return torch.cat([real(t.detach()).flatten() for t in self.carrying]).double()[None, None]

    def parts(self, h):
        """Tensors like those that carry relevance, with other values [N]."""
        for tensor, values in zip(self.carrying, h.split([real(t.detach()).numel() for t in self.carrying])):
            if tensor.is_complex():
                yield torch.view_as_complex(values.view(*tensor.shape, 2))
            else:
                yield values.view(tensor.shape).to(tensor.dtype)

    def replaced(self, value, parts):
        if isinstance(value, torch.Tensor):
            place = next((i for i, tensor in enumerate(self.carrying) if tensor is value), None)
            return value.detach() if place is None else parts[place]
        if type(value) in (list, tuple):
            return type(value)(self.replaced(item, parts) for item in value)
        return {k: self.replaced(item, parts) for k, item in value.items()} if type(value) is dict else value

    def outputs(self, h):
        parts, sample = list(self.parts(h)), self.sample
        output = self.operation.op(
            self.replaced(sample.input, parts), *self.replaced(sample.args, parts),
            **self.replaced(sample.kwargs, parts),
        )
        output = sample.output_process_fn_grad(output) if sample.output_process_fn_grad else output
        leaves = flatten_tensors(output if isinstance(output, (list, torch.Tensor)) else list(output))
        floating = [x for x in leaves if isinstance(x, torch.Tensor) and (x.is_floating_point() or x.is_complex())]
        return torch.cat([real(leaf).flatten().double() for leaf in floating])

    def forward(self, x):
        return self.outputs(self.layer(x)[0, 0])[None]


def behind(operation, all_carry):
    """The operation with the first of its samples that has a gradient."""
    kind = next(kind for kind in KINDS if operation.supports_dtype(kind, "cpu"))
    for sample in operation.sample_inputs("cpu", kind, requires_grad=True):
        model = Behind(operation, sample, all_carry)
        if len(model.carrying) > all_carry and model.x.numel() and model.x.isfinite().all():
            x = model.x.requires_grad_()
            output = model(x)
            if output.requires_grad and output.numel() and output.isfinite().all():
                return model
    return None


def checked(operation, all_carry):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = behind(operation, all_carry)
        if model is None:
            return None
        size = model(model.x).shape[1]
        audit = CondAttribution(model).audit(model.x, RULES, [{"y": list(range(size))}])
    magnitude = 1 + sum(map(abs, audit.sinks.values()))
    assert audit.accounted == pytest.approx(1, abs=1e-6 * magnitude), audit
    assert not audit.faults, audit
    return model


def is_linear(model):
    """Whether the outputs of a model's operation are linear in the values that it takes."""
    with torch.no_grad():
        h, other = model.x[0, 0], torch.randn(model.x.shape[-1], dtype=torch.float64)
        try:
            both = model.outputs(h) + 2 * model.outputs(other)
            return torch.allclose(model.outputs(h + 2 * other), both, 1e-9, 1e-12)
        except RuntimeError:  # an input that the operation does not take
            return False


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS, ids=name_of)
def test_the_books_close_and_linear_operations_get_what_they_contribute(operation):
    model = checked(operation, all_carry=False)
    assert model is not None
    if not is_linear(model):
        return
    x = model.x.requires_grad_()
    z = model.outputs(x[0, 0])
    relevance = torch.rand_like(z) * (z != 0)  # nothing contributes to zeros, of either sign
    found = CondAttribution(model, heatmap_axis=None)(x, [{}], RULES, init_rel=relevance[None]).heatmap
    gradient, = torch.autograd.grad(z, x, relevance / Stabilizer(EPSILON)(z.detach()))
    expected = x.detach() * gradient
    contributes = expected != 0  # copies of zeros keep the relevance that arrives there
    error = 1e-2 if name_of(operation) in ROUNDED else 1e-8
    assert torch.allclose(found[contributes], expected[contributes], 0, error * expected.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS, ids=name_of)
def test_the_books_close_where_all_inputs_carry_relevance(operation):
    checked(operation, all_carry=True)
