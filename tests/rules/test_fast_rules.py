"""Accelerated rules give the relevance of zennit's."""
import copy
import re

import pytest
import torch
from rule_cases import (
    CONVOLUTION_BACKWARD,
    MODULES,
    RULES,
    SIGNS,
    Calls,
    assert_equals_zennit,
    deviation,
    everywhere,
    make_module,
    output_and_relevance,
    relevance_of,
    some_relevance,
)
from torch import nn
from zennit.core import Composite, Stabilizer
from zennit.rules import AlphaBeta, Epsilon, Flat, Gamma, Norm, Pass, WSquare, ZBox, ZPlus

from crp.rules.acceleration import accelerate
from crp.rules.replacement import PassThrough

pytestmark = pytest.mark.usefixtures("quick")
VARIANTS_LATER = [  # conv2d, and in the slow tier conv2d with each kind of padding, of one sample, in groups ...
    pytest.param(name, marks=pytest.mark.slow) if re.search(r"[ ,]", name) else name for name in MODULES
]
STABILIZERS = {
    "number": .05,
    "integer": 1,
    "clip": Stabilizer(.1, clip=True),
    "norm": Stabilizer(.1, norm_scale=True),
    "norm of channels": Stabilizer(.1, norm_scale=True, dim=(1,)),
    "clip by norm": Stabilizer(.1, clip=True, norm_scale=True),
    "function": lambda z: z + .3,
}
TUNABLE_RULES = {
    "epsilon": Epsilon,
    "z+": ZPlus,
    "alpha-beta": lambda stabilizer, zero: AlphaBeta(3, 2, stabilizer, zero),
    "gamma": lambda stabilizer, zero: Gamma(2., stabilizer, zero),
    "box": lambda stabilizer, zero: ZBox(-1.5, 2., stabilizer, zero),
    "w square": WSquare,
    "flat": Flat,
    "norm": lambda stabilizer, zero: Norm(stabilizer),
}
ACTIVATIONS = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "leaky relu": nn.LeakyReLU, "elu": nn.ELU, "hard swish": nn.Hardswish,
    "silu": nn.SiLU, "hard sigmoid": nn.Hardsigmoid, "hard tanh": nn.Hardtanh, "selu": nn.SELU, "celu": nn.CELU,
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", VARIANTS_LATER)
def test_relevance_and_output_are_those_of_zennit(name):
    module, data = make_module(name)
    wrong = {}
    for rule in RULES:
        for sign, change in SIGNS.items():
            composite, x = everywhere(RULES[rule]), change(data)
            output, expected = output_and_relevance(composite, module, x)
            own_output, relevance = output_and_relevance(accelerate(composite), module, x)
            assert expected.any() or not x.any() or name.startswith("batch norm")
            if not (deviation(relevance, expected) < 1e-12 and torch.equal(output, own_output)):
                wrong[rule, sign] = deviation(relevance, expected)
    assert not wrong


def error_of_zennit(composite, module, x, expected, repetitions):
    """The largest error for an input and for others that are equal to it within rounding."""
    rounded = [x * (1 + 1e-7 * torch.randn_like(x)) for _ in range(repetitions)]
    return max(deviation(relevance_of(composite, module, each), expected) for each in (x, *rounded))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", VARIANTS_LATER)
def test_relevance_in_float32_is_as_exact_as_that_of_zennit(name):
    module, data = make_module(name)
    single, wrong = copy.deepcopy(module).float(), {}
    for rule in RULES:
        for sign, change in SIGNS.items():
            composite, x = everywhere(RULES[rule]), change(data).float()
            expected = relevance_of(composite, copy.deepcopy(single).double(), x.double())
            own = deviation(relevance_of(accelerate(composite), single, x), expected)
            of_zennit = error_of_zennit(composite, single, x, expected, 0)
            if not own <= max(1e-5, 3 * of_zennit):  # where outputs are near zero, it is chance who is exact
                of_zennit = error_of_zennit(composite, single, x, expected, 10)
            if not own <= max(1e-5, 3 * of_zennit):
                wrong[rule, sign] = own, of_zennit
    assert not wrong


@pytest.mark.parametrize("zero", [
    "bias", ["weight", "bias"], *(pytest.param(zero, marks=pytest.mark.slow) for zero in (None, ["bias"], ["weight"])),
], ids=str)
@pytest.mark.parametrize("stabilizer", STABILIZERS)
@pytest.mark.parametrize("rule", TUNABLE_RULES)
def test_rules_keep_stabilizer_and_zero_parameters(rule, stabilizer, zero):
    composite = everywhere(TUNABLE_RULES[rule](STABILIZERS[stabilizer], zero))
    for name in ("linear", "conv2d in groups", "conv2d, replicate", "transposed conv2d", "batch norm", "average2d"):
        module, x = make_module(name)
        for sign in ("positive", "mixed"):
            assert_equals_zennit(composite, module, SIGNS[sign](x))


@pytest.mark.parametrize("name", ["conv2d", "conv2d, reflect", "transposed conv2d", "batch norm", "average2d"])
def test_box_with_tensors_for_bounds(name):
    module, x = make_module(name)
    per_channel = torch.linspace(.5, 2, 4).view(1, 4, 1, 1)
    per_value = torch.rand(5, *x.shape[1:])
    for size in (per_channel, per_channel.double(), per_channel[0, :, 0, 0][None], per_value[:1], per_value):
        for bounds in ((-size, size), (torch.zeros_like(size), size), (-3., size)):
            assert_equals_zennit(everywhere(ZBox(*bounds)), module, x)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_pass_on_activations(name, inplace):
    torch.manual_seed(0)
    options = {"inplace": True} if inplace and name != "gelu" else {}
    model = nn.Sequential(nn.Linear(5, 4), ACTIVATIONS[name](**options), nn.Linear(4, 3)).double()
    composite = Composite(lambda context, name, module: {"0": ZPlus(), "1": Pass(), "2": Epsilon()}.get(name))
    output, expected = output_and_relevance(composite, model, x := torch.randn(3, 5, dtype=torch.float64))
    assert type(accelerate(composite).module_map({}, "1", model[1])) is PassThrough
    own_output, relevance = output_and_relevance(accelerate(composite), model, x)
    assert torch.equal(output, own_output) and deviation(relevance, expected) < 1e-12


@pytest.mark.parametrize("module", [nn.PReLU(4), nn.GELU(), nn.Tanh(), nn.Softplus(), nn.Threshold(.1, 2.)], ids=str)
def test_relevance_passes_activations_unchanged(module):
    output, relevance = output_and_relevance(accelerate(everywhere(Pass())), module, x := torch.randn(3, 4))
    assert torch.equal(output, module(x)) and torch.equal(relevance, some_relevance(output))


@pytest.mark.parametrize("name", ["batch norm", "batch norm of vectors", "batch norm without parameters"])
@pytest.mark.parametrize("training", [False, True])
def test_pass_on_batch_norm(name, training):
    module, x = make_module(name)
    other = copy.deepcopy(module.train(training))
    output, expected = output_and_relevance(everywhere(Pass()), module, x)
    own_output, relevance = output_and_relevance(accelerate(everywhere(Pass())), other, x)
    assert torch.equal(output, own_output) and torch.equal(relevance, expected)
    assert torch.equal(module.running_var, other.running_var)


def test_an_inplace_activation_leaves_the_callers_data():
    x = torch.randn(3, 4, requires_grad=True)
    before = x.detach().clone()
    with accelerate(everywhere(Pass())).context(nn.ReLU(inplace=True)) as module:
        output = module(x)
        relevance, = torch.autograd.grad(output, x, torch.ones(3, 4))
    assert torch.equal(x, before) and torch.equal(output, before.relu()) and torch.equal(relevance, torch.ones(3, 4))


def test_an_inplace_activation_may_overwrite_what_a_rule_gave(conv, image):
    model = nn.Sequential(conv, nn.ReLU(inplace=True), nn.Conv2d(16, 4, 3).double())
    for rule in (Epsilon(), Gamma(), ZPlus()):
        rules = {"0": rule, "1": Pass(), "2": rule}
        assert_equals_zennit(Composite(lambda context, name, module: rules.get(name)), model, image)


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("rule", [
    ZPlus(), Epsilon(), Gamma(), AlphaBeta(), ZBox(-1., 2.), Epsilon(Stabilizer(.1, clip=True)), Flat(),
])
def test_several_backward_passes(conv, image, rule, repeated):
    composite = everywhere(rule)
    starts = [some_relevance, lambda output: torch.cos(7 * output), lambda output: torch.ones_like(output)]
    expected = [relevance_of(composite, conv, image, start) for start in starts]
    x = image.requires_grad_()
    with accelerate(composite, repeated=repeated).context(conv):
        output = conv(x)
        kept = output.detach().clone()
        relevances = [
            torch.autograd.grad(output, x, start(output.detach()), retain_graph=True)[0] for start in starts
        ]
    for own, other in zip(relevances, expected):
        assert deviation(own, other) < 1e-12
    assert torch.equal(output, kept)


def test_denominators_are_kept_for_further_backward_passes(conv, image):
    x = image.requires_grad_()
    for repeated, expected in ((True, (3, 4)), (False, (5, 4))):
        with accelerate(everywhere(ZPlus()), repeated=repeated).context(conv), Calls() as calls:
            output = conv(x)
            for _ in range(2):
                torch.autograd.grad(output, x, torch.ones_like(output), retain_graph=True)
        assert calls.convolutions == expected


def test_relevance_given_to_a_rule_is_not_changed(conv, image):
    x = image.requires_grad_()
    for rule in (Epsilon(), ZPlus(), Gamma(), Flat()):
        with accelerate(everywhere(rule)).context(conv):
            output = conv(x)
            start = some_relevance(output.detach())
            torch.autograd.grad(output, x, start)
        assert torch.equal(start, some_relevance(output.detach()))


@pytest.mark.parametrize("stabilizer", [
    lambda z: z, lambda z: z.add_(1.), lambda z: z.abs().mean((1, 2, 3), keepdim=True).expand_as(z),
    lambda z: z.abs().mean((1, 2, 3), keepdim=True), lambda z: 2.,
], ids=["itself", "in place", "expanded", "broadcast", "number"])
@pytest.mark.parametrize("make", [Epsilon, ZPlus, Flat])
def test_stabilizers_of_any_kind(conv, image, make, stabilizer):
    rule = make(stabilizer)
    expected = relevance_of(everywhere(rule), conv, image)
    x = image.requires_grad_()
    with accelerate(everywhere(rule)).context(conv):
        output = conv(x)
        kept = output.detach().clone()
        relevance, = torch.autograd.grad(output, x, some_relevance(output.detach()))
    assert deviation(relevance, expected) < 1e-12
    assert torch.equal(output, kept)


def only(channels):
    def start(output):
        mask = torch.zeros_like(output)
        for row, channel in channels:
            mask[row, channel] = 1
        return mask * some_relevance(output)

    return start


@pytest.mark.parametrize("channels", [
    [(0, 0), (1, 0)], [(0, 5), (1, 5)], [(0, 15), (1, 2)], [(0, 3)], [(1, 3)], [],
    [(1, channel) for channel in range(16)], [(row, channel) for row in range(2) for channel in range(1, 9)],
    [(0, 1), *((1, channel) for channel in range(9))],
], ids=str)
@pytest.mark.parametrize("make", [
    lambda: nn.Conv2d(4, 16, 3), lambda: nn.Conv2d(4, 16, 3, groups=2),
    lambda: nn.Conv2d(4, 16, 3, groups=4, bias=False),
    lambda: nn.Conv2d(4, 16, 3, padding=1, padding_mode="reflect"), lambda: nn.ConvTranspose2d(4, 16, 3),
], ids=["plain", "groups", "depth", "reflect", "transposed"])
def test_silent_channels(make, channels, double):
    module, x = make(), torch.randn(2, 4, 6, 6)
    for rule in (Epsilon(), ZPlus(), AlphaBeta(), Gamma(), ZBox(-1., 2.), WSquare(), Flat()):
        expected = assert_equals_zennit(everywhere(rule), module, x, only(channels))
        assert expected.any() == bool(channels)


def test_silent_channels_cost_nothing(conv, image):
    with Calls() as calls:
        relevance_of(accelerate(everywhere(Epsilon())), conv, image, only([(0, 5), (1, 9)]))
    (start, _, weight), = calls.shapes[CONVOLUTION_BACKWARD]
    assert start[1] == weight[0] <= 3


@pytest.mark.parametrize("rule", [Epsilon(.1), ZPlus(), Gamma(), WSquare()], ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("active", [[], [(1, 2)], [(0, 0), (1, 1)], [(i, j) for i in range(2) for j in range(5)]])
def test_relevance_at_few_positions(rule, active):
    layer, x = nn.Linear(4, 3).double(), torch.randn(2, 5, 4, dtype=torch.double)

    def some_relevance(output):
        relevance = torch.zeros_like(output)
        for place in active:
            relevance[place] = torch.arange(1., 4.)
        return relevance

    ours, expected = (relevance_of(rules, layer, x, some_relevance)
                      for rules in (accelerate(everywhere(rule)), everywhere(rule)))
    torch.testing.assert_close(ours, expected)
    if len(active) in (1, 2):
        with Calls() as calls:
            relevance_of(accelerate(everywhere(rule)), layer, x, some_relevance)
        assert calls.shapes[torch.ops.aten.mm][-1][0][0] == len(active)
