"""Attention, against the rules of its operations."""
import math

import pytest
import torch
from operations_by_contribution import Function, by_contributions, composite, random, send_back, stabilize
from torch import nn
from torch.nn import functional
from zennit.composites import EpsilonPlus
from zennit.core import Composite
from zennit.rules import Epsilon, ZPlus
from zennit.types import Linear

from crp.attribution import CondAttribution
from crp.rules.operations.choice import OperationRules
from crp.rules.operations.mode import OperationMode


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
