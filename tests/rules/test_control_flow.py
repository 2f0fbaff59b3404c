"""Functions of PyTorch that run other functions: relevance is that of a twin that does the same by plain operations."""
import importlib
import threading
import warnings
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._functorch import vmap as functorch_vmap
from torch._higher_order_ops.associative_scan import associative_scan
from torch._higher_order_ops.map import map as map_
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

from crp.attribution import CondAttribution
from crp.composites import LanguageModel, VisionTransformer
from crp.rules import control_flow
from crp.rules.control_flow import step_by_step

MATRIX = torch.randn(8, 8, dtype=torch.double)
LAYERS = [nn.Linear(8, 8, bias=False, dtype=torch.double) for _ in range(2)]


def ensemble(h):
    parameters, buffers = stack_module_state(LAYERS)
    return vmap(lambda *state: functional_call(LAYERS[0], state, (h,)))(parameters, buffers).sum(0)


def doubled(h):
    return functional_call(LAYERS[0], {"weight": 2 * LAYERS[0].weight}, (h,))


CASES = {
    "vmap": (lambda h: vmap(lambda row: MATRIX @ row)(h), lambda h: h @ MATRIX.T),
    "vmap over columns": (lambda h: vmap(torch.relu, 1, 1)(h), lambda h: h.relu()),
    "vmap of vmap": (lambda h: vmap(vmap(lambda x, y: x * 2 + y, (0, None)), (0, 0))(h, h[:, 0]),
                     lambda h: h * 2 + h[:, :1]),
    "vmap in chunks": (lambda h: vmap(lambda row: {"a": row.relu()}, chunk_size=1)(h)["a"], lambda h: h.relu()),
    "functional_call": (doubled, lambda h: nn.functional.linear(h, 2 * LAYERS[0].weight)),
    "ensemble": (ensemble, lambda h: LAYERS[0](h) + LAYERS[1](h)),
    "cond": (lambda h: torch.cond(h.sum() > h.sum() - 1, lambda h: h.relu(), lambda h: 2 * h, (h,)), torch.relu),
    "while": (lambda h: while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, h * 1.5), (torch.tensor(0), h))[1],
              lambda h: h * 1.5 ** 3),
    "scan": (lambda h: scan(lambda c, x: (c + x, c + x), torch.zeros_like(h[:, 0]), h, dim=1)[1],
             lambda h: h.cumsum(1)),
    "scan back": (lambda h: scan(lambda c, x: (c + x, {"sum": c + x}), h[:, 0] * 0, h, dim=1, reverse=True)[0][:, None]
                  .expand(-1, 8), lambda h: h.sum(1, keepdim=True).expand(-1, 8)),
    "associative scan": (lambda h: associative_scan(torch.add, h, 1, combine_mode="generic"), lambda h: h.cumsum(1)),
    "map": (lambda h: map_(lambda row: row * 2, h), lambda h: h * 2),
}


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(6, 8, bias=False), nn.Linear(8, 3, bias=False), function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


@pytest.mark.parametrize(
    "composite", [LanguageModel(1e-12), VisionTransformer(stabilizer=1e-12)], ids=["epsilon", "gamma"]
)
@pytest.mark.parametrize("name", CASES)
def test_relevance_is_that_of_plain_operations(name, composite):
    models = [Net(function).double().eval() for function in CASES[name]]
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randn(2, 6, dtype=torch.double)
    with step_by_step():
        torch.testing.assert_close(models[0](x), models[1](x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attributions = [CondAttribution(model, heatmap_axis=None) for model in models]
        found, expected = (attribution(x, [{"y": [1]}], composite).heatmap for attribution in attributions)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert not attributions[0].audit(x, composite).faults


@pytest.mark.parametrize("function", [
    lambda h: grad(lambda z: (z ** 2).sum() / 2)(h), lambda h: jvp(lambda z: z @ MATRIX, (h,), (h,))[1],
    lambda h: grad(lambda z: LAYERS[0](z).sum())(h),
], ids=["grad", "jvp", "of a layer"])
def test_derivatives_in_the_forward_pass_are_refused(function):
    model, x = Net(function).double().eval(), torch.randn(2, 6, dtype=torch.double)
    attribution = CondAttribution(model, heatmap_axis=None)
    with pytest.raises(NotImplementedError, match="the model computes derivatives"):
        attribution(x, [{"y": [1]}], LanguageModel())
    assert attribution(x, [{"y": [1]}]).heatmap.shape == x.shape


def test_functions_are_as_before_afterwards():
    vmapped, row_count = vmap(lambda row: row * 2), []
    x = torch.randn(3, 6)
    CondAttribution(Net(lambda h: vmap(torch.relu)(h)).eval(), heatmap_axis=None)(x, [{"y": [1]}], LanguageModel())
    vmap(lambda row: row_count.append(row) or row)(x)
    assert len(row_count) == 1 and torch.equal(vmapped(x), 2 * x)


def test_generators_and_threads_do_not_disturb_each_other():
    """Other functions are in place only while a forward pass runs, and only in its thread."""
    original = functorch_vmap._flat_vmap
    x, conditions = torch.randn(1, 6), [{"y": [i]} for i in range(3)]
    first, second = (
        CondAttribution(Net(lambda h: vmap(torch.relu)(h)).eval(), heatmap_axis=None).generate(
            x, conditions, LanguageModel(), batch_size=1, verbose=False
        ) for _ in range(2)
    )
    next(first), next(second)
    assert functorch_vmap._flat_vmap is original
    list(first), list(second)
    assert functorch_vmap._flat_vmap is original

    calls: list[int] = []
    with step_by_step():
        thread = threading.Thread(target=lambda: vmap(lambda row: calls.append(1) or row)(torch.ones(3, 2)))
        thread.start()
        thread.join()
        assert len(calls) == 1
        vmap(lambda row: calls.append(1) or row)(torch.ones(3, 2))
    assert len(calls) == 4 and functorch_vmap._flat_vmap is original


@pytest.mark.parametrize("out_dims", [0, 1, (0, None), (1, 0), (-1, None)])
@pytest.mark.parametrize("size", [0, 3])
def test_outputs_of_vmap(out_dims, size):
    def function(row):
        return (row * 2, torch.ones(2)) if isinstance(out_dims, tuple) else row * 2

    x = torch.randn(size, 2)
    expected = vmap(function, out_dims=out_dims)(x)
    with step_by_step():
        torch.testing.assert_close(vmap(function, out_dims=out_dims)(x), expected)


def test_random_numbers_in_vmap():
    x = torch.zeros(3, 2)
    for step in (step_by_step, nullcontext):
        with step():
            same = vmap(lambda row: row + torch.randn(2), randomness="same")(x)
            different = vmap(lambda row: row + torch.randn(2), randomness="different")(x)
        assert torch.equal(same[0], same[1]) and not torch.equal(different[0], different[1])


def test_out_dims_that_do_not_fit():
    with step_by_step(), pytest.raises(ValueError, match="out_dims=.* do not fit"):
        vmap(lambda row: row, out_dims=(0, 0))(torch.ones(2, 2))


def test_this_version_of_pytorch_has_what_is_replaced():
    for module_name, names in control_flow._REPLACEMENTS.items():
        assert names.keys() & vars(importlib.import_module(module_name)).keys()
