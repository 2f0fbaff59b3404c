"""Which operations get which rules, and that nothing stays."""
import pytest
import torch
from operations_by_contribution import Function, random, send_back, stabilize
from torch import nn
from torch.nn import functional
from zennit.composites import EpsilonPlus, EpsilonPlusFlat, GuidedBackprop
from zennit.core import Composite
from zennit.rules import Epsilon, ZPlus

from crp.attribution import CondAttribution
from crp.composites import VisionTransformer


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


SPELLINGS = {
    "product": lambda x, w: x @ w.T, "three axes": lambda x, w: torch.matmul(x, w.T[None]),
    "einsum": lambda x, w: torch.einsum("btf,of->bto", x, w), "einsum, weight first": lambda x, w: torch.einsum(
        "of,btf->bto", w, x), "list": lambda x, w: torch.einsum("btf,of->bto", [x, w]),
    "tensordot": lambda x, w: torch.tensordot(x, w, dims=([2], [1])),
    "bmm": lambda x, w: torch.bmm(x, w.T.expand(len(x), -1, -1)), "weight first": lambda x, w: (w @ x.mT).mT,
    "vectors": lambda x, w: torch.stack([torch.mv(w, row) for row in x.flatten(0, 1)]).view(*x.shape[:2], -1),
    "aten": lambda x, w: torch.ops.aten.matmul.default(x, w.T),
}


@pytest.mark.parametrize("make", [
    EpsilonPlus, lambda: EpsilonPlusFlat(epsilon=.1), VisionTransformer,
    lambda: Composite(lambda context, name, module: ZPlus() if isinstance(module, nn.Linear) else None),
])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_linear_layer_has_the_rule_of_the_composite_however_it_is_written(spelling, make):
    class Layer(nn.Module):
        def __init__(self, product):
            super().__init__()
            torch.manual_seed(0)
            self.product, self.weight = product, nn.Parameter(random(4, 6))
            self.last = nn.Linear(12, 3).double()

        def forward(self, x):
            return self.last(self.product(x, self.weight).relu().flatten(1))

    x = random(2, 3, 6)
    found, expected = (
        CondAttribution(Layer(product).eval())(x, [{"y": [1]}], make()).heatmap
        for product in (SPELLINGS[spelling], functional.linear)
    )
    torch.testing.assert_close(found, expected)
