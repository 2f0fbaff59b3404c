"""Sums, products and functions of elements, against slow restatements of their formulas."""
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operations_by_contribution import Function, by_contributions, composite, random, send_back, stabilize
from torch import nn
from torch.nn import functional
from zennit.composites import EpsilonPlus
from zennit.core import Composite
from zennit.rules import Epsilon
from zennit.types import Linear

from crp.attribution import CondAttribution
from crp.rules.operations.choice import OperationRules
from crp.rules.operations.mode import OperationMode

CONSTANT, IMAGE = random(3, 4), (2, 4, 6)
GRID = torch.rand(1, 5, 5, 2, dtype=torch.double) * 2 - 1


@pytest.mark.parametrize("function, shapes", [
    (lambda a, b: a + b, [(3, 4), (3, 4)]),
    (lambda a, b: a + b, [(3, 1), (2, 1, 4)]),
    (lambda a, b: torch.add(a, b, alpha=2), [(3, 4), (4,)]),
    (lambda a, b: a - b, [(3, 4), (3, 1)]),
    (lambda a, b: torch.sub(a, b, alpha=-3), [(3, 4), (3, 4)]),
    (lambda a, b: torch.rsub(a, b, alpha=2), [(3, 4), (3, 4)]),
    (lambda a: a + CONSTANT, [(3, 4)]),
    (lambda a: CONSTANT - a, [(3, 4)]),
    (lambda a: 2.5 - a, [(3, 4)]),
    (lambda a: a - 1, [(3, 4)]),
    (lambda a: a.sum(), [(3, 4)]),
    (lambda a: a.sum(0, keepdim=True), [(3, 4)]),
    (lambda a: torch.mean(a, (0, 2)), [(3, 4, 2)]),
    (lambda a: a.cumsum(1), [(3, 4)]),
    (lambda a: torch.einsum("ij,kj->ik", a, CONSTANT), [(3, 4)]),
    (lambda a: CONSTANT @ a, [(4, 2)]),
    (lambda a: a @ CONSTANT, [(2, 3)]),
    (lambda a: torch.addmm(CONSTANT[0], a, CONSTANT), [(2, 3)]),
    (lambda a: functional.linear(a, CONSTANT, CONSTANT[:, 0]), [(2, 3, 4)]),
    (lambda a: functional.conv1d(a, CONSTANT.view(3, 2, 2), CONSTANT[:, 0], stride=2, padding=1), [(2, 2, 5)]),
    (lambda a: functional.conv1d(a, CONSTANT.view(6, 1, 2), groups=2), [(2, 2, 5)]),
    (lambda a: functional.conv2d(a, CONSTANT.view(3, 1, 2, 2), None, (1, 2)), [(2, 1, 3, 4)]),
    (lambda a: functional.conv2d(a, CONSTANT.view(3, 1, 2, 2), padding="same", dilation=2), [(2, 1, 3, 4)]),
    (lambda a: functional.conv_transpose1d(a, CONSTANT.view(2, 3, 2), CONSTANT[0, :3], 2, 0, 1), [(2, 2, 3)]),
    (lambda a: functional.conv_transpose1d(a, CONSTANT.view(4, 1, 3), groups=2), [(2, 4, 3)]),
    (lambda a: functional.avg_pool1d(a, 2), [IMAGE]),
    (lambda a: functional.avg_pool2d(a, 3, 2, 1, count_include_pad=False), [(2, 2, 4, 4)]),
    (lambda a: functional.adaptive_avg_pool1d(a, 4), [IMAGE]),
    (lambda a: functional.adaptive_avg_pool2d(a, (2, 1)), [(2, 2, 3, 3)]),
    (lambda a: functional.interpolate(a, scale_factor=2., mode="linear"), [(1, 2, 3)]),
    (lambda a: functional.interpolate(a, size=4, mode="nearest"), [(1, 2, 3)]),
    (lambda a: functional.grid_sample(a, GRID, align_corners=False), [(1, 2, 3, 3)]),
    (lambda a: functional.batch_norm(a, CONSTANT[0], CONSTANT[1] ** 2, CONSTANT[2], CONSTANT[0]), [(2, 4, 2)]),
])
def test_linear_operations_send_to_each_input_what_it_contributes(function, shapes):
    inputs = [random(*shape) for shape in shapes]
    found, output, relevance = send_back(function, inputs)
    torch.testing.assert_close(output, function(*inputs))
    for ours, expected in zip(found, by_contributions(function, inputs, relevance)):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("function, shapes", [
    (torch.matmul, [(3, 4), (4, 2)]), (torch.matmul, [(2, 3, 4), (4, 2)]), (torch.matmul, [(3, 4), (2, 4, 5)]),
    (torch.matmul, [(4,), (4, 2)]), (torch.matmul, [(2, 3, 4), (4,)]), (torch.bmm, [(2, 3, 4), (2, 4, 2)]),
    (lambda a, b: torch.einsum("bij,bkj->bik", a, b), [(2, 3, 4), (2, 5, 4)]),
    (lambda a, b: functional.linear(a, b), [(2, 4), (3, 4)]), (torch.outer, [(3,), (4,)]),
])
def test_products_of_two_activations_send_half_to_each_by_contribution(function, shapes):
    a, b = (random(*shape) for shape in shapes)
    found, output, relevance = send_back(function, [a, b])
    z = function(a, b)
    torch.testing.assert_close(output, z)
    expected = (
        by_contributions(lambda x: function(x, b), [a], relevance, .5)[0],
        by_contributions(lambda x: function(a, x), [b], relevance, .5)[0],
    )
    torch.testing.assert_close(found, expected)


def test_a_sum_with_a_product():
    a, b, c = random(2, 3, 4), random(2, 4, 2), random(3, 2)
    found, output, relevance = send_back(lambda a, b, c: torch.baddbmm(c, a, b, beta=2, alpha=3), [a, b, c])
    torch.testing.assert_close(output, torch.baddbmm(c, a, b, beta=2, alpha=3))
    s = relevance / stabilize(output)
    torch.testing.assert_close(found[2], (2 * c * s).sum(0))
    expected, _, _ = send_back(torch.bmm, [a, b], 3 * (a @ b) * s)
    torch.testing.assert_close(found[:2], expected)


@pytest.mark.parametrize("function", [
    lambda a, b: a * b, torch.mul, lambda a, b: a / b, torch.div, lambda a, b: a.clone().mul_(b), lambda a, b: a ** b,
])
@pytest.mark.parametrize("shapes", [[(3, 4), (3, 4)], [(3, 4), (3, 1)], [(2, 3, 4), (4,)]])
def test_factors_share_equally(function, shapes):
    inputs = [random(*shape).abs() for shape in shapes]
    inputs[0].view(-1)[0] = 0  # also where the product is zero
    (a, b), output, relevance = send_back(function, inputs)
    torch.testing.assert_close(output, function(*inputs))
    torch.testing.assert_close(a, (relevance / 2).sum_to_size(shapes[0]))
    torch.testing.assert_close(b, (relevance / 2).sum_to_size(shapes[1]))


@pytest.mark.parametrize("function", [
    functional.gelu, lambda x: functional.gelu(x, approximate="tanh"), functional.silu, torch.sigmoid, torch.tanh,
    functional.hardswish, functional.hardsigmoid, functional.hardtanh, functional.relu, functional.relu6, torch.relu,
    functional.leaky_relu, functional.elu, functional.softplus, functional.mish, lambda x: x.clamp(-1, 1), torch.exp,
    lambda x: -x, torch.abs, lambda x: x ** 2, lambda x: x.clone().relu_(), lambda x: functional.silu(x, inplace=True),
    lambda x: 2 ** x, lambda x: x * 3, lambda x: x / 7, lambda x: 1 / x, lambda x: x + 0, lambda x: sum([x]),
    functional.selu, lambda x: functional.threshold(x, .2, .1), lambda x: functional.prelu(x, torch.ones(1).double()),
])
def test_functions_of_single_elements_pass_relevance(function):
    x = torch.cat([random(2, 5), torch.zeros(1, 5, dtype=torch.double), torch.full((1, 5), 9.).double()])
    found, output, relevance = send_back(function, [x])
    torch.testing.assert_close(output, function(x.clone()))
    torch.testing.assert_close(found[0], relevance)


def test_a_constant_factor_of_zero_lets_nothing_back():
    mask = torch.tensor([1., 0., -2.], dtype=torch.double)
    (found,), _, relevance = send_back(lambda x: x * mask, [random(4, 3)])
    torch.testing.assert_close(found, relevance * (mask != 0))


@pytest.mark.parametrize("function, dim", [
    (lambda x: functional.softmax(x, -1), -1), (lambda x: torch.softmax(x, 0), 0), (lambda x: x.softmax(dim=1), 1),
    (lambda x: nn.Softmax(1)(x), 1),
])
def test_softmax_by_its_taylor_expansion(function, dim):
    x = random(3, 4)
    x[0, 1] = -torch.inf
    (found,), _, relevance = send_back(function, [x])
    s = x.softmax(dim)
    expected = torch.zeros_like(x)
    for i in range(3):
        for j in range(4):
            line = relevance[:, j] if dim == 0 else relevance[i]
            if x[i, j] > -torch.inf:
                expected[i, j] = x[i, j] * (relevance[i, j] - s[i, j] * line.sum())
    torch.testing.assert_close(found, expected)


# Nothing stays

def test_nothing_stays_after_an_exception(model_state):
    def fail(x):
        x = functional.conv1d(x[:, None], x.new_ones(1, 1, 1))[:, 0] + x
        raise KeyError("no such luck")

    model = nn.Sequential(nn.Linear(5, 4), Function(fail))
    before = model_state(model)
    with pytest.raises(KeyError):
        CondAttribution(model)(torch.rand(2, 5), [{"y": [0]}], EpsilonPlus())
    assert model_state(model) == before
    assert not torch.overrides._get_current_function_mode_stack()


def test_other_threads_do_not_notice():
    seen, x = [], torch.rand(3, requires_grad=True)

    def other():
        y = (x * x).sum()
        seen.append(torch.autograd.grad(y, x)[0])

    def with_thread(z):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return z * z

    send_back(with_thread, [random(3)])
    torch.testing.assert_close(seen[0], 2 * x.detach())


def test_relevance_cannot_be_differentiated_and_says_so():
    x = random(3).requires_grad_()
    model = Function(lambda x: x + x.sigmoid())
    with OperationMode(model, OperationRules(composite(), model)):
        y = model(x)
    with pytest.raises(RuntimeError, match="functional=False"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


# Any shape

@st.composite
def broadcastable(draw):
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    shapes = []
    for _ in range(2):
        kept = draw(st.integers(0, len(shape) - 1))
        shapes.append([n if draw(st.booleans()) else 1 for n in shape[kept:]])
    return shapes


@settings(max_examples=60, deadline=None)
@given(broadcastable(), st.integers(0, 99))
def test_sums_and_products_of_any_shapes_conserve(shapes, seed):
    torch.manual_seed(seed)
    a, b = (random(*shape).abs() + .1 for shape in shapes)
    exact = Composite(lambda context, name, module: Epsilon(1e-12) if isinstance(module, Linear) else None)
    for function in (torch.add, torch.mul, lambda a, b: a / b, lambda a, b: (a + b) * a, lambda a, b: a * b.sum()):
        found, _, relevance = send_back(function, [a, b], rules=exact)
        assert sum(x.sum() for x in found).item() == pytest.approx(relevance.sum().item(), abs=1e-8)
        assert [x.shape for x in found] == [a.shape, b.shape]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_attention_of_any_shape(batch, queries, keys, width, causal):
    inputs = [random(batch, n, width) for n in (queries, keys, keys)]
    found, output, _ = send_back(lambda *x: functional.scaled_dot_product_attention(*x, is_causal=causal), inputs)
    torch.testing.assert_close(output, functional.scaled_dot_product_attention(*inputs, is_causal=causal))
    assert [x.shape for x in found] == [x.shape for x in inputs]
    assert all(torch.isfinite(x).all() for x in found)


def test_sampling_at_a_fixed_grid_is_linear():
    grid = torch.rand(2, 3, 3, 2, dtype=torch.double)
    inputs = [random(2, 1, 4, 4)]
    (found,), z, relevance = send_back(lambda x: functional.grid_sample(x, grid, align_corners=False), inputs)
    expected, = by_contributions(lambda x: functional.grid_sample(x, grid, align_corners=False), inputs, relevance)
    torch.testing.assert_close(found, expected)
