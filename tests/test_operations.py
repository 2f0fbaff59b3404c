"""Rules of functional operations, against slow restatements of their formulas."""
import math
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from zennit.composites import EpsilonPlus, EpsilonPlusFlat, GuidedBackprop
from zennit.core import Composite, Stabilizer
from zennit.layer import Sum
from zennit.rules import Epsilon, Norm, ZPlus
from zennit.types import AvgPool, Linear

from crp.attribution import CondAttribution
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


def test_log_softmax_takes_the_normaliser_for_a_constant():
    x = random(3, 4)
    (found,), output, relevance = send_back(lambda x: functional.log_softmax(x, 1), [x])
    torch.testing.assert_close(found, x * relevance / stabilize(x - x.logsumexp(1, keepdim=True)))


WEIGHT, BIAS = random(4), random(4)


def channels(parameter):
    return parameter.view(1, -1, 1)


@pytest.mark.parametrize("function, dims, eps, affine", [
    (lambda x: functional.layer_norm(x, (4,), WEIGHT, BIAS), (-1,), 1e-5, lambda z: z * WEIGHT + BIAS),
    (lambda x: functional.layer_norm(x, (3, 4)), (-2, -1), 1e-5, lambda z: z),
    (lambda x: functional.layer_norm(x, (4,), bias=BIAS, eps=.5), (-1,), .5, lambda z: z + BIAS),
    (lambda x: functional.instance_norm(x, weight=BIAS[:3], bias=WEIGHT[:3]), (-1,), 1e-5,
     lambda z: z * channels(BIAS[:3]) + channels(WEIGHT[:3])),
    (lambda x: functional.group_norm(x, 1, WEIGHT[:3], eps=.2), (1, 2), .2, lambda z: z * channels(WEIGHT[:3])),
    (nn.GroupNorm(3, 3).double().requires_grad_(False), (2,), 1e-5, lambda z: z),
    (nn.LayerNorm(4).double().requires_grad_(False), (-1,), 1e-5, lambda z: z),
])
def test_normalisation_by_a_constant_factor(function, dims, eps, affine):
    x = random(2, 3, 4)
    scale = 1 / torch.sqrt(x.var(dims, correction=0, keepdim=True) + eps)

    def linear(x):
        return affine((x - x.mean(dims, keepdim=True)) * scale)

    (found,), output, relevance = send_back(function, [x])
    torch.testing.assert_close(output, linear(x))
    torch.testing.assert_close(found, by_contributions(linear, [x], relevance)[0])


@pytest.mark.parametrize("function", [
    lambda x: functional.rms_norm(x, (4,), WEIGHT),
    nn.RMSNorm(4).double().requires_grad_(False),
    lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    lambda x: WEIGHT * (x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()),
    lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt(),
    lambda x: x / ((x * x).sum(-1, keepdim=True) ** .5).clamp(min=1e-3),
    lambda x: x / x.norm(dim=-1, keepdim=True),
    lambda x: x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + 1e-3).expand_as(x),
    lambda x: functional.normalize(x, dim=-1),
    lambda x: x / x.std(-1, keepdim=True),
])
def test_factors_that_normalise_count_as_constants(function):
    x = random(2, 3, 4)
    (found,), output, relevance = send_back(function, [x])
    torch.testing.assert_close(output, function(x))
    torch.testing.assert_close(found, relevance)


def test_layer_norm_by_hand_is_layer_norm():
    x, relevance = random(2, 3, 4), random(2, 3, 4)

    def by_hand(x):
        variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-5) * WEIGHT + BIAS

    rules = Composite(lambda context, name, module: Epsilon(1e-12) if isinstance(module, Linear) else None)
    ours, _, _ = send_back(by_hand, [x], relevance, rules=rules)
    module, _, _ = send_back(lambda x: functional.layer_norm(x, (4,), WEIGHT, BIAS), [x], relevance, rules=rules)
    torch.testing.assert_close(ours, module, rtol=1e-6, atol=1e-6)


# In place


def test_in_place_forms_write_and_send_as_the_others():
    def ignoring_what_they_return(a, b):
        a.add_(b)
        a.mul_(2)
        a.sub_(1)
        functional.relu(a, inplace=True)
        torch.nn.functional.hardtanh_(a, -9., 9.)
        a.div_(3)
        return a

    def with_operators(a, b):
        a += b
        a *= 2
        a -= 1
        a = a.relu()
        a = a.clamp(-9, 9)
        a /= 3
        return a

    def out_of_place(a, b):
        return ((a + b) * 2 - 1).relu().clamp(-9, 9) / 3

    inputs, relevance = [random(3, 4), random(3, 4)], random(3, 4)
    expected = send_back(out_of_place, inputs, relevance)
    for function in (ignoring_what_they_return, with_operators):
        found = send_back(function, inputs, relevance)
        torch.testing.assert_close(found[1], expected[1])
        torch.testing.assert_close(found[0], expected[0])


def test_writing_to_parts_of_a_tensor():
    def in_slices(a, b):
        a[:, 0] += b[:, 0]
        a[:, 1] = b[:, 1] * 2
        a[0, 2:].relu_()
        return a

    a, b = random(3, 4), random(3, 4)
    (of_a, of_b), output, relevance = send_back(in_slices, [a, b])
    torch.testing.assert_close(output, in_slices(a.clone(), b))
    s = relevance[:, 0] / stabilize(a[:, 0] + b[:, 0])
    nothing = torch.zeros(3, dtype=torch.double)
    torch.testing.assert_close(of_a, torch.stack([a[:, 0] * s, nothing, relevance[:, 2], relevance[:, 3]], 1))
    torch.testing.assert_close(of_b, torch.stack([b[:, 0] * s, relevance[:, 1], nothing, nothing], 1))


@pytest.mark.parametrize("change", [
    lambda x, y: y.add_(1), lambda x, y: x.mul_(2), lambda x, y: y.masked_fill_(y > 0, 3.), lambda x, y: y.relu_(),
])
def test_models_that_write_to_what_a_rule_reads(change):
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(5, 4), nn.Linear(4, 2)

        def forward(self, x):
            x = self.layer(x)
            y = functional.softmax(x + x.sigmoid(), -1)
            kept = y @ y.mT
            change(x, y)
            return self.head(kept @ (x + y))

    class Copying(Writing):
        def forward(self, x):
            x = self.layer(x)
            y = functional.softmax(x + x.sigmoid(), -1)
            kept = y @ y.mT
            x, y = x.clone(), y.clone()
            change(x, y)
            return self.head(kept @ (x + y))

    model, x = Writing().double(), random(3, 6, 5)
    twin = Copying().double()
    twin.load_state_dict(model.state_dict())
    ours, expected = (
        CondAttribution(net, heatmap_axis=-1)(x, [{"y": [(0, 1)]}], EpsilonPlus()).heatmap for net in (model, twin)
    )
    torch.testing.assert_close(ours, expected)


# Attention


def test_attention_of_two_tokens_by_hand():
    """One query, two keys: scores log 3 and 0, so that the weights are 3/4 and 1/4; values 2 and 4; output 5/2."""
    q = torch.tensor([[1.]], dtype=torch.double)
    k = torch.tensor([[math.log(3)], [0.]], dtype=torch.double)
    v = torch.tensor([[2.], [4.]], dtype=torch.double)
    exact = Composite(lambda context, name, module: Epsilon(1e-15) if isinstance(module, Linear) else None)
    (of_q, of_k, of_v), output, _ = send_back(
        functional.scaled_dot_product_attention, [q, k, v], torch.tensor([[1.]], dtype=torch.double), rules=exact
    )
    assert output.item() == pytest.approx(2.5)
    # the values get half of 1 in the proportion 3/4 * 2 to 1/4 * 4
    assert of_v.flatten().tolist() == pytest.approx([0.3, 0.2])
    # and so do the weights; the first score gets log 3 * (0.3 - 3/4 * 0.5), the second, being 0, nothing
    score = math.log(3) * (0.3 - 0.375)
    assert of_q.item() == pytest.approx(score / 2)
    assert of_k.flatten().tolist() == pytest.approx([score / 2, 0])


def attention_step_by_step(q, k, v, mask=0., scale=None):
    """Relevance 1 per output through attention, matrix by matrix, as formulas say."""
    scale = q.shape[-1] ** -.5 if scale is None else scale
    q = q * scale
    scores = q @ k.mT
    logits = scores + mask
    weights = logits.softmax(-1)
    output = weights @ v
    s = output / stabilize(output) / 2
    of_weights, of_v = weights * (s @ v.mT), v * (weights.mT @ s)
    of_logits = logits.nan_to_num(0, neginf=0) * (of_weights - weights * of_weights.sum(-1, keepdim=True))
    of_scores = scores * of_logits / stabilize(logits) if isinstance(mask, torch.Tensor) else of_logits
    s = of_scores / stabilize(scores) / 2
    return q * (s @ k), k * (s.mT @ q), of_v, output


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 2, 3, 4)])
def test_attention_is_the_rules_of_its_operations(shape):
    inputs = [random(*shape) for _ in range(3)]
    output = functional.scaled_dot_product_attention(*inputs)
    found, ours, _ = send_back(functional.scaled_dot_product_attention, inputs, output)
    *expected, z = attention_step_by_step(*inputs)
    torch.testing.assert_close(ours, z)
    torch.testing.assert_close(list(found), expected)


def test_attention_with_an_added_mask():
    inputs, mask = [random(2, 3, 4) for _ in range(3)], random(3, 3)
    output = functional.scaled_dot_product_attention(*inputs, mask)
    found, _, _ = send_back(lambda *x: functional.scaled_dot_product_attention(*x, mask), inputs, output)
    *expected, z = attention_step_by_step(*inputs, mask)
    torch.testing.assert_close(output, z)
    torch.testing.assert_close(list(found), expected)


def test_cp_lrp_sends_everything_to_the_values():
    q, k, v = (random(2, 3, 4) for _ in range(3))
    found, output, relevance = send_back(functional.scaled_dot_product_attention, [q, k, v], attention="cp-lrp")
    weights = (q @ k.mT / 2).softmax(-1)
    torch.testing.assert_close(found[2], by_contributions(lambda v: weights @ v, [v], relevance)[0])
    assert all(x is None or not x.any() for x in found[:2])
    (found,), _, relevance = send_back(lambda x: x.softmax(-1), [q], attention="cp-lrp")  # as an output of a model
    assert found.any()


@pytest.mark.parametrize("options", [
    {}, {"is_causal": True}, {"scale": .7}, {"attn_mask": torch.rand(5, 6) > .5}, {"attn_mask": random(2, 1, 5, 6)},
    {"attn_mask": torch.tensor([[True] * 6, [False] * 6] * 2 + [[True] * 6])}, {"enable_gqa": True},
])
def test_attention_gives_what_pytorch_gives(options):
    heads = 2 if options.get("enable_gqa") else 4
    inputs = random(2, 4, 5, 8), random(2, heads, 6, 8), random(2, heads, 6, 3)
    found, output, _ = send_back(lambda *x: functional.scaled_dot_product_attention(*x, **options), inputs)
    torch.testing.assert_close(output, functional.scaled_dot_product_attention(*inputs, **options))
    assert all(torch.isfinite(x).all() for x in found)


@pytest.mark.parametrize("module_options, call_options", [
    ({}, {}), ({"batch_first": True}, {}), ({"bias": False}, {"need_weights": False}), ({"add_bias_kv": True}, {}),
    ({"add_zero_attn": True, "add_bias_kv": True}, {"average_attn_weights": False}),
    ({}, {"key_padding_mask": torch.tensor([[False] * 4 + [True], [False] * 5, [True] + [False] * 4])}),
    ({"add_bias_kv": True}, {"key_padding_mask": torch.tensor([[False] * 4 + [True]] * 3)}),
    ({}, {"attn_mask": torch.rand(5, 5).triu(1) > 0}), ({}, {"attn_mask": random(6, 5, 5)}),
    ({"batch_first": True}, {"attn_mask": torch.rand(5, 5).triu(1) > 0, "is_causal": True, "need_weights": False}),
    ({"add_zero_attn": True}, {"attn_mask": random(5, 5)}),
])
def test_multi_head_attention_gives_what_pytorch_gives(module_options, call_options):
    attend = nn.MultiheadAttention(8, 2, **module_options).double().eval()
    batch_first = module_options.get("batch_first")
    x = random(3, 5, 8) if batch_first else random(5, 3, 8)
    expected, weights = attend(x, x, x, **call_options)
    model = Function(attend)
    with OperationMode(model, OperationRules(composite(), model)):
        output, our_weights = model(*[x.requires_grad_()] * 3) if not call_options else attend(
            *[x.requires_grad_()] * 3, **call_options
        )
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(our_weights, weights)


def test_multi_head_attention_with_other_keys_and_without_batch():
    attend = nn.MultiheadAttention(8, 2, kdim=6, vdim=4).double().eval()
    q, k, v = random(5, 8), random(7, 6), random(7, 4)
    found, output, _ = send_back(lambda *x: attend(*x)[0], [q, k, v])
    torch.testing.assert_close(output, attend(q, k, v)[0])
    assert all(x.shape == y.shape and x.any() for x, y in zip(found, (q, k, v)))


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.attend(x, x, x, need_weights=False)[0]).mean(1)


class AttendingStepByStep(nn.Module):
    """The same with a module for each projection."""

    def __init__(self, other):
        super().__init__()
        attend = other.attend
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.head = other.head
        for layer, weight, bias in zip((self.q, self.k, self.v), attend.in_proj_weight.chunk(3),
                                       attend.in_proj_bias.chunk(3)):
            layer.weight.data, layer.bias.data = weight.data, bias.data
        self.out.load_state_dict(attend.out_proj.state_dict())

    def forward(self, x):
        q, k, v = (layer(x).unflatten(2, (2, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        weights = torch.softmax(q / 2 @ k.transpose(2, 3), 3)
        return self.head(self.out((weights @ v).transpose(1, 2).flatten(2))).mean(1)


@pytest.mark.parametrize("rules", [EpsilonPlus(), composite(ZPlus()), composite()])
@pytest.mark.parametrize("accelerate", [True, False])
def test_multi_head_attention_is_the_rules_of_its_parts(rules, accelerate):
    model = Attending().double().eval()
    nn.init.normal_(model.attend.in_proj_bias)
    twin, x = AttendingStepByStep(model).double().eval(), random(3, 5, 8)
    ours, expected = (
        CondAttribution(net, heatmap_axis=-1, accelerate=accelerate)(x, [{"y": [1]}], rules, [layer])
        for net, layer in ((model, "attend.out_proj:in"), (twin, "out:in"))
    )
    torch.testing.assert_close(ours.heatmap, expected.heatmap)
    torch.testing.assert_close(ours.relevances["attend.out_proj:in"], expected.relevances["out:in"])
    torch.testing.assert_close(ours.activations["attend.out_proj:in"], expected.activations["out:in"])


# Which rules apply


@pytest.mark.parametrize("rules", [None, GuidedBackprop()])
def test_gradients_stay_gradients(rules):
    model = nn.Sequential(nn.Linear(5, 4), Function(lambda x: x.sigmoid() * x + 3), nn.Linear(4, 2))
    x = torch.rand(2, 5)
    ours, alone = (CondAttribution(model, functional=f)(x, [{"y": [0]}], rules).heatmap for f in (True, False))
    torch.testing.assert_close(ours, alone, rtol=0, atol=0)


def test_parameters_with_gradients_switch_the_rules_off():
    model, x = nn.Sequential(nn.Linear(5, 4), Function(lambda x: x * x.sigmoid()), nn.Linear(4, 2)), torch.rand(2, 5)
    ours = CondAttribution(model, no_param_grad=False)(x, [{"y": [0]}], EpsilonPlus())
    alone = CondAttribution(model, functional=False)(x, [{"y": [0]}], EpsilonPlus())
    torch.testing.assert_close(ours.heatmap, alone.heatmap)


def test_a_layer_that_the_composite_leaves_out_keeps_its_gradient():
    model, x = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).double(), random(2, 5)
    rules = Composite(lambda context, name, module: Epsilon() if name == "2" else None)
    ours, alone = (CondAttribution(model, functional=f)(x, [{"y": [0]}], rules).heatmap for f in (True, False))
    torch.testing.assert_close(ours, alone)


@pytest.mark.parametrize("function", [
    lambda x, w: functional.conv2d(x, w, padding=1), lambda x, w: torch.conv2d(x, w, None, 1, 1),
])
def test_functional_convolutions_get_the_rule_of_the_composite_and_the_first_the_first(function):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Parameter(random(3, 2, 3, 3)), nn.Parameter(random(2, 3, 3, 3))

        def forward(self, x):
            return function(function(x, self.one).relu(), self.two).flatten(1)

    class Modules(nn.Module):
        def __init__(self, other):
            super().__init__()
            self.one = nn.Conv2d(2, 3, 3, padding=1, bias=False)
            self.two = nn.Conv2d(3, 2, 3, padding=1, bias=False)
            self.one.weight, self.two.weight, self.relu = other.one, other.two, nn.ReLU()

        def forward(self, x):
            return self.two(self.relu(self.one(x))).flatten(1)

    model, x = Functional(), random(2, 2, 4, 4)
    for rules in (EpsilonPlusFlat(), EpsilonPlus(), EpsilonPlusFlat()):
        ours, expected = (CondAttribution(m)(x, [{"y": [3]}], rules).heatmap for m in (model, Modules(model)))
        torch.testing.assert_close(ours, expected)


def test_activations_written_by_hand_are_activations():
    class Swish(nn.Module):
        def forward(self, x):
            return x * (1 + (-x).exp()).reciprocal()

    class NoActivation(nn.Module):
        def forward(self, x):
            return x * x.mean()

    x = random(2, 5)
    for module, passes in ((Swish(), True), (NoActivation(), False)):
        model = nn.Sequential(nn.Linear(5, 4), module, nn.Linear(4, 2)).double().eval()
        result = CondAttribution(model)(x, [{"y": [0]}], EpsilonPlus(), ["0", "1"])
        assert torch.equal(result.relevances["0"], result.relevances["1"]) == passes


@pytest.mark.parametrize("functional_rules", ["gradient", 3, None])
def test_unknown_rules_are_refused(functional_rules):
    with pytest.raises(ValueError, match="functional is True, False, 'attnlrp' or 'cp-lrp'"):
        CondAttribution(nn.Linear(2, 2), functional=functional_rules)


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


def with_mode(function, inputs):
    return send_back(function, inputs)[1]


@pytest.mark.parametrize("function, shapes", [
    (functional.glu, [(2, 6)]), (lambda a: functional.glu(a, 0), [(4, 3)]),
    (functional.cosine_similarity, [(3, 4), (3, 4)]),
    (lambda a: torch.stack(torch.var_mean(a, 1)), [(3, 4)]), (lambda a: torch.stack(torch.std_mean(a, 1)), [(3, 4)]),
    (lambda a, b, c: torch.addmm(a, b, c, beta=.5, alpha=2.), [(3, 2), (3, 4), (4, 2)]),
    (lambda a, b, c: a.addmm(b, c), [(2,), (3, 4), (4, 2)]),
    (lambda a, b, c: torch.addmv(a, b, c, beta=.5), [(3,), (3, 4), (4,)]),
    (lambda a, b, c: torch.baddbmm(a, b, c, alpha=3.), [(2, 3, 2), (2, 3, 4), (2, 4, 2)]),
    (lambda a, b, c: torch.addcmul(a, b, c, value=2.), [(3,), (3,), (3,)]),
    (lambda a, b, c: torch.addcdiv(a, b, c, value=2.), [(3,), (3,), (3,)]),
    (lambda a, b: torch.lerp(a, b, .3), [(3,), (3,)]), (lambda a, b, c: a.lerp(b, c), [(3,), (3,), (3,)]),
    (lambda a, b, c: functional.linear(a, b, c), [(5, 3), (2, 3), (2,)]), (functional.linear, [(5, 3), (2, 3)]),
])
def test_what_is_composed_gives_what_pytorch_gives(function, shapes):
    inputs = [random(*shape) for shape in shapes]
    torch.testing.assert_close(with_mode(function, inputs), function(*inputs))


@pytest.mark.parametrize("function", [
    lambda x, mean, var, w, b: functional.batch_norm(x, mean, var, w, b, eps=.5),
    lambda x, mean, var, w, b: functional.instance_norm(x, mean, var, w, b, use_input_stats=False, eps=.5),
    lambda x, mean, var, w, b: functional.instance_norm(x, weight=w, bias=b, eps=.5),
    lambda x, mean, var, w, b: functional.group_norm(x, 3, w, b, eps=.5),
])
def test_functional_norms_keep_their_epsilon_and_their_zeros(function):
    x, parameters = random(2, 3, 4), [random(3), random(3).exp(), random(3), random(3)]
    (found,), z, relevance = send_back(lambda x: function(x, *parameters), [x])
    torch.testing.assert_close(z, function(x, *parameters))
    mean, var, weight, bias = (parameter[:, None] for parameter in parameters)
    own = x.mean(2, keepdim=True), x.var(2, correction=0, keepdim=True)
    is_running = torch.allclose(z, (x - mean) / (var + .5).sqrt() * weight + bias)
    factor = weight / ((var if is_running else own[1]) + .5).sqrt()
    s = relevance / stabilize(z) * factor
    torch.testing.assert_close(found, x * (s if is_running else s - s.mean(2, keepdim=True)))


@pytest.mark.parametrize("power", [lambda x: x ** -.5, lambda x: 1 / x ** .5, lambda x: torch.pow(x, -.5)])
def test_powers_that_normalise_count_as_constants(power):
    x = random(2, 5)
    found, output, relevance = send_back(lambda x: x * power(x.square().mean(-1, keepdim=True)), [x])
    torch.testing.assert_close(found[0], relevance)
    assert output.square().mean().item() == pytest.approx(1)


@pytest.mark.parametrize("function, name", [
    (lambda x: torch.batch_norm(x, None, None, torch.ones(3), torch.ones(3), False, .1, .5, False), "batch_norm"),
    (lambda x: torch.instance_norm(x, None, None, None, None, True, .1, .5, False), "instance_norm"),
    (lambda x: functional.grid_sample(x, x[:, :2].movedim(1, -1), align_corners=False), "grid_sample"),
])
def test_what_has_no_rule_passes_its_gradient_and_is_named(function, name):
    model = Function(lambda x: function(x).flatten(1)).eval()
    x = torch.randn(2, 3, 4, 4)
    audit = CondAttribution(model).audit(x, composite())
    assert any(name in note for note in audit.notes) and torch.isfinite(torch.tensor(audit.total))


def test_sampling_at_a_fixed_grid_is_linear():
    grid = torch.rand(2, 3, 3, 2, dtype=torch.double)
    inputs = [random(2, 1, 4, 4)]
    (found,), z, relevance = send_back(lambda x: functional.grid_sample(x, grid, align_corners=False), inputs)
    expected, = by_contributions(lambda x: functional.grid_sample(x, grid, align_corners=False), inputs, relevance)
    torch.testing.assert_close(found, expected)
