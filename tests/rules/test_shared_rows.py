"""Rows that are equal are computed once."""
import copy

import pytest
import torch
from rule_cases import (
    COMPOSITES,
    CONVOLUTION,
    CONVOLUTION_BACKWARD,
    Calls,
    deviation,
    everywhere,
    randomise_statistics,
    relevance_of,
    relevance_of_rows,
    some_relevance,
)
from torch import nn
from zennit.core import Composite, Stabilizer
from zennit.layer import Sum
from zennit.rules import AlphaBeta, Epsilon, Flat, Norm, Pass, WSquare, ZBox, ZPlus

from crp.model.rows import copy_rows, distinct_rows, is_shared, share_rows
from crp.rules.acceleration import accelerate

pytestmark = pytest.mark.usefixtures("quick")
SHARED_NETS = {
    "images": (lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3),
        nn.ReLU(inplace=True), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 4),
    ), (3, 12, 12)),
    "overlapping windows": (lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1, 2, ceil_mode=True),
        nn.Conv2d(4, 4, 2, padding="same", padding_mode="circular"), nn.MaxPool2d((2, 3), 1, (1, 0)),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(16, 4),
    ), (3, 11, 12)),
    "volumes": (lambda: nn.Sequential(
        nn.Conv3d(2, 3, 2, padding=1), nn.BatchNorm3d(3), nn.ReLU(inplace=True), nn.MaxPool3d(3, 2, 1),
        nn.Conv3d(3, 2, 2, groups=1), nn.LeakyReLU(), nn.MaxPool3d((2, 1, 1), 1, 0, (1, 2, 1)), nn.AvgPool3d(2),
        nn.Flatten(), nn.Linear(2, 4),
    ), (2, 6, 6, 6)),
    "series": (lambda: nn.Sequential(
        nn.ConvTranspose1d(2, 4, 3, 2), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 3, 3, groups=1),
        nn.Hardswish(inplace=True), nn.Linear(4, 4), Sum(), nn.Linear(3, 4),
    ), (2, 6)),
    "generated images": (lambda: nn.Sequential(
        nn.ConvTranspose2d(2, 4, 3, 2, groups=2), nn.PReLU(4), nn.Conv2d(4, 4, 3, groups=4), Sum(1), Sum(1),
    ), (2, 4, 4)),
}
SHARED_RULES = {
    **COMPOSITES,
    "w square": lambda: everywhere(WSquare()),
    "flat": lambda: everywhere(Flat()),
    "alpha 3": lambda: everywhere(AlphaBeta(3, 2, Stabilizer(.1, norm_scale=True))),
    "no rule": lambda: everywhere(None),
}


def shared_net(name):
    torch.manual_seed(0)
    make, shape = SHARED_NETS[name]
    return randomise_statistics(make()).double().eval(), torch.randn(1, *shape, dtype=torch.float64)


def only_where_possible(composite):
    """Leave modules without parameters to autograd that a rule such as Flat gives no meaning."""
    kinds = nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.AvgPool2d, nn.AvgPool3d, Sum
    return Composite(lambda context, name, module: (
        composite.module_map(context, name, module) if isinstance(module, kinds) else
        Pass() if isinstance(module, (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Hardswish)) else None
    ))


@pytest.mark.parametrize("rules", SHARED_RULES)
@pytest.mark.parametrize("name", SHARED_NETS)
def test_shared_rows(name, rules):
    model, sample = shared_net(name)
    composite = only_where_possible(SHARED_RULES[rules]()) if rules != "no rule" else everywhere(None)
    accelerated, dense = accelerate(composite), sample.repeat_interleave(5, 0)
    shape = model(dense).shape
    per_row, of_one = torch.randn(shape).double(), torch.randn(1, *shape[1:]).double().expand(shape)
    for start in (per_row, of_one):
        expected_output, expected = relevance_of_rows(composite, model, dense.clone(), start.clone())
        shared = sample.clone().requires_grad_().expand_as(dense)
        output, relevance = relevance_of_rows(accelerated, model, shared, start)
        assert deviation(relevance, expected) < 1e-12 and deviation(output, expected_output) < 1e-14
        own_output, own = relevance_of_rows(accelerated, model, dense.clone(), start)
        assert deviation(own, expected) < 1e-12 and torch.equal(own_output, expected_output)
    if rules != "no rule" and name == "images":
        assert is_shared(output) and is_shared(relevance)


@pytest.mark.parametrize("rules", COMPOSITES)
def test_shared_rows_are_computed_once(rules):
    model, sample = shared_net("images")
    composite = accelerate(COMPOSITES[rules]())
    for start, rows in ((torch.randn(5, 4).double(), 5), (torch.randn(1, 4).double().expand(5, 4), 1)):
        with Calls() as calls:
            relevance_of_rows(composite, model, sample.clone().requires_grad_().expand(5, 3, 12, 12), start)
        assert calls.shapes[CONVOLUTION] and {shapes[0][0] for shapes in calls.shapes[CONVOLUTION]} == {1}
        assert {shapes[0][0] for shapes in calls.shapes[CONVOLUTION_BACKWARD]} == {rows}
        pools = calls.shapes[torch.ops.aten.max_pool2d_with_indices]
        assert {shapes[0][0] for shapes in pools} == {1}


def test_shared_channels_are_no_rows(double):
    grey = torch.randn(1, 6, 6)
    for rule, module in (
        (ZPlus(), nn.Conv2d(3, 4, 3)), (Pass(), nn.ReLU()), (None, nn.MaxPool2d((2, 3))), (Norm(), nn.AvgPool2d(2)),
        (Epsilon(), nn.Conv2d(3, 3, 3, groups=3)),
    ):
        composite = everywhere(rule)
        expected = relevance_of(composite, module, grey.repeat(3, 1, 1))
        shared = grey.clone().requires_grad_().expand(3, 6, 6)
        start = some_relevance(module(shared).detach())
        assert deviation(relevance_of_rows(accelerate(composite), module, shared, start)[1], expected) < 1e-12


def test_shared_rows_of_sums_over_samples(double):
    sample = torch.randn(1, 3, 4)
    for module in (Sum(0), Sum(1)):
        expected = relevance_of(everywhere(Norm()), module, sample.repeat(5, 1, 1))
        start = some_relevance(module(sample.expand(5, 3, 4)))
        shared = sample.clone().requires_grad_().expand(5, 3, 4)
        assert deviation(relevance_of_rows(accelerate(everywhere(Norm())), module, shared, start)[1], expected) < 1e-12


def test_shared_rows_in_a_box_that_differs_by_row(double):
    module, sample, size = nn.Conv2d(3, 4, 3), torch.randn(1, 3, 6, 6), 3 + torch.rand(5, 3, 6, 6)
    composite = everywhere(ZBox(-size, size))
    expected = relevance_of(composite, module, sample.repeat(5, 1, 1, 1))
    shared = sample.clone().requires_grad_().expand(5, 3, 6, 6)
    start = some_relevance(module(shared).detach())
    assert deviation(relevance_of_rows(accelerate(composite), module, shared, start)[1], expected) < 1e-12


@pytest.mark.parametrize("module", [nn.BatchNorm1d(4), nn.BatchNorm1d(4).eval(), nn.RReLU().eval()], ids=str)
def test_shared_rows_through_layers_whose_mode_matters(module):
    module = module.double()
    shared = torch.randn(1, 4, dtype=torch.float64, requires_grad=True).expand(5, 4)
    expected = copy.deepcopy(module)(shared)
    with accelerate(everywhere(Pass())).context(module):
        output = module(shared)
        relevance, = torch.autograd.grad(output, shared, some_relevance(output.detach()))
    torch.testing.assert_close(output, expected)
    assert torch.equal(relevance, some_relevance(output.detach()))


def test_functions_on_rows():
    sample, batch = torch.randn(1, 3), torch.randn(4, 3)
    shared = sample.expand(4, 3)
    assert is_shared(shared) and not is_shared(batch) and not is_shared(sample) and not is_shared(torch.tensor(1.))
    assert not is_shared(sample.expand(1, 3)) and not is_shared(torch.randn(4, 1).expand(4, 3))
    assert torch.equal(distinct_rows(shared), sample) and distinct_rows(batch) is batch
    assert is_shared(share_rows(sample, 4)) and torch.equal(share_rows(sample, 4), shared)
    assert share_rows(sample, 1) is sample and share_rows(batch, 8) is batch


@pytest.mark.parametrize("make", [
    lambda x: x * 1, lambda x: (x[:1] * 1).expand(4, 3), lambda x: x.sum(), lambda x: x[:1] * 1
])
def test_copies_of_rows(make):
    x = torch.randn(4, 3, requires_grad=True)
    original = make(x)
    before, duplicate = original.detach().clone(), copy_rows(original)
    assert torch.equal(duplicate, original) and is_shared(duplicate) == is_shared(original)
    start = some_relevance(original.detach())
    assert all(map(torch.equal, *(torch.autograd.grad(y, x, start, retain_graph=True) for y in (duplicate, original))))
    with torch.no_grad():
        duplicate[:1].fill_(7.) if duplicate.ndim else duplicate.fill_(7.)
    assert torch.equal(original, before) and not torch.equal(duplicate, before)
