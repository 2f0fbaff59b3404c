"""Accelerated rules: the relevance of zennit, at less cost, and nothing left behind."""
import copy
import gc
import weakref
from collections import defaultdict

import pytest
import torch
from torch import nn
from torch.func import jacrev
from torch.nn.utils import parametrizations, prune
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torchvision import models
from zennit.canonizers import NamedMergeBatchNorm, SequentialMergeBatchNorm
from zennit.composites import EpsilonAlpha2Beta1, EpsilonGammaBox, EpsilonPlus, EpsilonPlusFlat, NameMapComposite
from zennit.core import Composite, Hook, ParamMod, Stabilizer
from zennit.layer import Sum
from zennit.rules import AlphaBeta, Epsilon, Flat, Gamma, Norm, Pass, ReLUGuidedBackprop, WSquare, ZBox, ZPlus
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

from crp.concepts import ChannelConcept
from crp.hooks import MaskHook
from crp.model.rows import copy_rows, distinct_rows, is_shared, share_rows
from crp.rules.acceleration import accelerate
from crp.rules.attach import registered
from crp.rules.fast_rules import FastRule
from crp.rules.linear import linear_operation, share_uniform
from crp.rules.replacement import PassThrough, SharedMaxPool

pytestmark = pytest.mark.usefixtures("quick")

CONVOLUTION, CONVOLUTION_BACKWARD = torch.ops.aten.convolution, torch.ops.aten.convolution_backward

MODULES = {
    "linear": (lambda: nn.Linear(5, 4), (3, 5)),
    "linear on sequences": (lambda: nn.Linear(5, 4), (3, 2, 5)),
    "linear on a vector": (lambda: nn.Linear(5, 4), (5,)),
    "linear without bias": (lambda: nn.Linear(5, 4, bias=False), (3, 5)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
    "conv1d of one sample": (lambda: nn.Conv1d(4, 6, 3), (4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1, dilation=2), (2, 4, 8, 8)),
    "conv2d of one sample": (lambda: nn.Conv2d(4, 6, 3), (4, 8, 8)),
    "conv2d, uneven axes": (lambda: nn.Conv2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 2)), (2, 4, 8, 9)),
    "conv2d that leaves out a margin": (lambda: nn.Conv2d(4, 6, 3, stride=3), (2, 4, 8, 8)),
    "conv2d of points": (lambda: nn.Conv2d(4, 6, 1), (2, 4, 3, 3)),
    "conv2d in groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, stride=2), (2, 4, 8, 8)),
    "conv2d by depth": (lambda: nn.Conv2d(4, 4, 3, groups=4, bias=False), (2, 4, 8, 8)),
    "conv2d, same": (lambda: nn.Conv2d(4, 6, 3, padding="same", dilation=2), (2, 4, 8, 8)),
    "conv2d, same, uneven": (lambda: nn.Conv2d(4, 6, (2, 4), padding="same"), (2, 4, 8, 8)),
    "conv2d, valid": (lambda: nn.Conv2d(4, 6, 3, padding="valid"), (2, 4, 8, 8)),
    "conv2d, reflect": (lambda: nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"), (2, 4, 8, 8)),
    "conv2d, replicate": (lambda: nn.Conv2d(4, 6, 3, 2, 1, padding_mode="replicate"), (2, 4, 8, 8)),
    "conv2d, circular": (lambda: nn.Conv2d(4, 6, (3, 2), padding=(1, 0), padding_mode="circular"), (2, 4, 8, 8)),
    "conv2d of one sample, same, circular": (
        lambda: nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"), (4, 8, 8)
    ),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, padding=1), (2, 2, 5, 5, 5)),
    "conv3d in groups": (lambda: nn.Conv3d(2, 4, 2, groups=2, stride=2), (2, 2, 4, 5, 4)),
    "transposed conv1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), (2, 4, 9)),
    "transposed conv2d": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (2, 4, 5, 5)
    ),
    "transposed conv2d of one sample": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5)),
    "transposed conv2d in groups": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, dilation=2), (2, 4, 5, 5)),
    "transposed conv3d": (lambda: nn.ConvTranspose3d(2, 3, 2, stride=2, bias=False), (2, 2, 3, 3, 3)),
    "batch norm of vectors": (lambda: nn.BatchNorm1d(4), (3, 4)),
    "batch norm of sequences": (lambda: nn.BatchNorm1d(4), (3, 4, 5)),
    "batch norm": (lambda: nn.BatchNorm2d(4), (2, 4, 3, 3)),
    "batch norm without parameters": (lambda: nn.BatchNorm2d(4, affine=False, eps=.1), (2, 4, 3, 3)),
    "batch norm of volumes": (lambda: nn.BatchNorm3d(3), (2, 3, 2, 3, 2)),
    "average1d": (lambda: nn.AvgPool1d(2), (2, 4, 7)),
    "average2d": (lambda: nn.AvgPool2d(3, 2, 1), (2, 4, 7, 7)),
    "average2d of what is there": (
        lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), (2, 4, 6, 6)
    ),
    "average2d of one sample": (lambda: nn.AvgPool2d(2, divisor_override=3), (4, 6, 6)),
    "average3d": (lambda: nn.AvgPool3d(2), (2, 2, 4, 4, 5)),
    "average1d to a size": (lambda: nn.AdaptiveAvgPool1d(3), (2, 4, 7)),
    "average2d to a size": (lambda: nn.AdaptiveAvgPool2d(3), (2, 4, 7, 8)),
    "average2d to a larger size": (lambda: nn.AdaptiveAvgPool2d(3), (2, 4, 2, 2)),
    "average3d to a size": (lambda: nn.AdaptiveAvgPool3d(2), (2, 4, 5, 5, 5)),
    "sum": (lambda: Sum(), (2, 3, 4, 2)),
    "sum of channels": (lambda: Sum(1), (2, 3, 4, 2)),
    "sum of samples": (lambda: Sum(0), (2, 3, 4, 2)),
}
SIGNS = {
    "positive": torch.abs, "negative": lambda x: -x.abs(), "mixed": lambda x: x / 4,
    "half zeros": lambda x: x.clamp(min=0),
}
RULES = {
    "epsilon": Epsilon(),
    "epsilon .1": Epsilon(.1),
    "epsilon without bias": Epsilon(zero_params=["bias"]),
    "z+": ZPlus(),
    "z+ without bias": ZPlus(zero_params="bias"),
    "z+ by norm": ZPlus(Stabilizer(.1, norm_scale=True)),
    "alpha 2": AlphaBeta(),
    "alpha 1": AlphaBeta(1, 0),
    "alpha 3": AlphaBeta(3, 2, stabilizer=.01),
    "gamma": Gamma(),
    "gamma 10": Gamma(10, stabilizer=1e-3),
    "gamma without bias": Gamma(zero_params=["bias"]),
    "box": ZBox(-1., 2.),
    "box from zero": ZBox(0., 1.),
    "w square": WSquare(),
    "flat": Flat(),
    "norm": Norm(),
    "epsilon that clips": Epsilon(Stabilizer(.1, clip=True)),
}
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


class Calls(TorchDispatchMode):
    """Records the shapes of the tensors that reach operations."""

    def __init__(self):
        super().__init__()
        self.shapes = defaultdict(list)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.shapes[function.overloadpacket].append([tuple(a.shape) for a in args if isinstance(a, torch.Tensor)])
        return function(*args, **(kwargs or {}))

    @property
    def convolutions(self):
        """How many convolutions there were, and how many backward."""
        return len(self.shapes[CONVOLUTION]), len(self.shapes[CONVOLUTION_BACKWARD])


def everywhere(rule):
    """A composite with a rule for all modules without children."""
    return Composite(lambda context, name, module: None if list(module.children()) else rule)


def some_relevance(output):
    return torch.sin(torch.arange(output.numel(), dtype=output.dtype)).view(output.shape) + .1


def output_and_relevance(composite, model, x, start=some_relevance):
    x = x.detach().requires_grad_()
    with registered(composite, model):  # zennit 1.0's own context leaves attributes that hide merged parameters
        output = model(x.clone(memory_format=torch.preserve_format))
        return output.detach(), torch.autograd.grad(output, x, start(output.detach()))[0]


def relevance_of(composite, model, x, start=some_relevance):
    return output_and_relevance(composite, model, x, start)[1]


def deviation(actual, expected):
    """The largest difference, as a part of the largest expected value."""
    assert actual.shape == expected.shape and torch.equal(actual.isnan(), expected.isnan())
    actual, expected = (tensor.detach().double().nan_to_num() for tensor in (actual, expected))
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()


def assert_equals_zennit(composite, model, x, start=some_relevance):
    expected = relevance_of(composite, model, x, start)
    assert deviation(relevance_of(accelerate(composite), model, x, start), expected) < 1e-12
    return expected


def is_kept(rule, module):
    """Whether a rule remains zennit's on a module."""
    return accelerate(Composite(lambda *_: rule)).module_map({}, "", module) is rule


def randomise_statistics(model):
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(.5, 2)
            for parameter in module.parameters():
                nn.init.normal_(parameter)
    return model


def make_module(name):
    make, shape = MODULES[name]
    torch.manual_seed(0)
    return randomise_statistics(make()).double().eval(), torch.randn(shape, dtype=torch.float64)


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def conv():
    return nn.Conv2d(3, 16, 3, padding=1).double()


@pytest.fixture
def image():
    return torch.randn(2, 3, 7, 7, dtype=torch.float64)


@pytest.fixture
def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6),
        nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(24, 10), nn.ReLU(inplace=True), nn.Linear(10, 4),
    ).double().eval()


COMPOSITES = {
    "plus flat": EpsilonPlusFlat,
    "gamma box": lambda canonizers=None: EpsilonGammaBox(-3., 3., canonizers=canonizers),
    "alpha 2 beta 1": EpsilonAlpha2Beta1,
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", MODULES)
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
@pytest.mark.parametrize("name", MODULES)
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


@pytest.mark.parametrize("zero", [None, "bias", ["bias"], ["weight"], ["weight", "bias"]], ids=str)
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


def made(name):
    """A model of torchvision with batch statistics like those of its data."""
    torch.manual_seed(0)
    if name == "vgg16_bn":
        with torch.device("meta"):
            model = models.vgg16_bn(weights=None)
        model.classifier = nn.Sequential(nn.Linear(512 * 49, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 10))
        model.features.to_empty(device="cpu")
        for module in model.features:
            getattr(module, "reset_parameters", lambda: None)()
    else:
        model = getattr(models, name)(weights=None, num_classes=10)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    data = torch.randn(8, 3, 64 if name == "densenet121" else 40, 64 if name == "densenet121" else 40)
    with torch.no_grad():
        model.train()(data)
        for norm in norms:
            norm.running_mean += .1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(.5, 2)
            norm.weight.uniform_(.5, 1.5)
            norm.bias.normal_(0, .1)
    return model.eval(), data[:2]


def canonizers_for(name, model):
    names = [name for name, _ in model.named_modules() if name.endswith("norm2")]
    return {
        "vgg16_bn": lambda: [VGGCanonizer()],
        "resnet18": lambda: [ResNetCanonizer()],
        "densenet121": lambda: [NamedMergeBatchNorm([
            (["features.conv0"], "features.norm0"), *(([name.replace("norm2", "conv1")], name) for name in names),
        ])],
        "mobilenet_v3_small": lambda: [SequentialMergeBatchNorm()],
    }[name]()


@pytest.mark.parametrize("name", ["vgg16_bn", "resnet18", "densenet121", "mobilenet_v3_small"])
def test_heatmaps_of_whole_models(name):
    model, data = made(name)
    single = None
    for kind, make in COMPOSITES.items():
        composite = make(canonizers=canonizers_for(name, model))
        if kind == "plus flat":
            single = [output_and_relevance(each, model, data)[1] for each in (composite, accelerate(composite))]
        model.double()
        output, expected = output_and_relevance(composite, model, data.double())
        own_output, relevance = output_and_relevance(accelerate(composite), model, data.double())
        assert torch.equal(output, own_output)
        assert deviation(relevance, expected) < 1e-12 and deviation(relevance.sum(1), expected.sum(1)) < 1e-12
        if kind == "plus flat":
            of_zennit, own = (deviation(relevance, expected) for relevance in single)
            assert own <= max(1e-5, 3 * of_zennit)


def test_residual_networks_that_add_in_place():
    model, data = made("resnet18")
    assert_equals_zennit(EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()]), model.double(), data.double())


def positive(z):
    return z.clamp(min=0)


def negative(z):
    return z.clamp(max=0)


def share(contributions, relevance, z):
    """Divide the relevance of outputs [K] by contributions [K, J] of inputs, which sum up to z [K]."""
    return (contributions * (relevance / torch.where(z >= 0, z + 1e-6, z - 1e-6))[:, None]).sum(0)


def gamma_by_hand(x, weight, bias, relevance, gamma=.25):
    result = torch.zeros_like(x)
    for k, output in enumerate(weight @ x + bias):
        part = positive if output > 0 else negative
        favoured = weight[k] * x + gamma * part(weight[k] * x)
        z = favoured.sum() + bias[k] + gamma * part(bias[k])
        result += share(favoured[None], relevance[k:k + 1], z[None])
    return result


def alpha_beta_by_hand(x, weight, bias, relevance, alpha=2, beta=1):
    shares = [
        share(part(weight * x), relevance, part(weight * x).sum(1) + part(bias)) for part in (positive, negative)
    ]
    return alpha * shares[0] - beta * shares[1]


def box_by_hand(x, weight, bias, relevance, low=-2., high=3.):
    contributions = weight * x - positive(weight) * low - negative(weight) * high
    return share(contributions, relevance, contributions.sum(1) + bias - positive(bias) - negative(bias))


BY_HAND = {
    "epsilon": (Epsilon(), lambda x, weight, bias, relevance: share(weight * x, relevance, weight @ x + bias)),
    "z+": (ZPlus(), lambda *args: alpha_beta_by_hand(*args, 1, 0)),
    "alpha 2": (AlphaBeta(2, 1), alpha_beta_by_hand),
    "alpha 3": (AlphaBeta(3, 2), lambda *args: alpha_beta_by_hand(*args, 3, 2)),
    "gamma": (Gamma(), gamma_by_hand),
    "gamma 3": (Gamma(3.), lambda *args: gamma_by_hand(*args, 3.)),
    "box": (ZBox(-2., 3.), box_by_hand),
    "w square": (WSquare(), lambda x, weight, bias, r: share(weight ** 2, r, (weight ** 2).sum(1) + bias ** 2)),
    "flat": (Flat(), lambda x, weight, bias, r: share((weight != 0).to(x), r, (weight != 0).to(x).sum(1))),
    "norm": (Norm(), lambda x, weight, bias, relevance: share(weight * x, relevance, weight @ x + bias)),
}


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("name", ["linear", "linear without bias", "conv2d", "conv2d in groups", "transposed conv2d"])
@pytest.mark.parametrize("rule", BY_HAND)
def test_rules_are_their_formulas(rule, name, sign):
    module, x = make_module(name)
    x, (zennit_rule, formula) = SIGNS[sign](x), BY_HAND[rule]
    output, relevance = output_and_relevance(accelerate(everywhere(zennit_rule)), module, x)
    zeros = torch.zeros_like(x[:1])
    weight, bias = jacrev(module)(zeros).view(-1, zeros.numel()), module(zeros).detach().flatten()
    assert isinstance(accelerate(everywhere(zennit_rule)).module_map({}, "", module), FastRule)
    for row, start, own in zip(x, some_relevance(output), relevance):
        expected = formula(row.flatten(), weight.detach(), bias, start.flatten()).view(row.shape)
        assert expected.any() and deviation(own, expected) < 1e-10


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", MODULES)
def test_linear_operations_are_their_modules(name):
    module, x = make_module(name)
    operation = linear_operation(module.requires_grad_(False))
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    output, transpose = torch.func.vjp(module, x)
    start, zero_output = some_relevance(output), module(torch.zeros_like(x))
    assert torch.equal(operation.forward(x, weight, bias), output)
    assert deviation(operation.transpose(start, weight, x.shape), transpose(start)[0]) < 1e-14
    assert operation.takes(x) == ("one sample" not in name and name not in (
        "linear on a vector", "sum of channels", "sum of samples"
    ))
    at_zero = operation.at_zero(x, weight, bias)
    torch.testing.assert_close(zero_output, zero_output * 0 if at_zero is None else at_zero.expand_as(output))


class OwnEpsilon(Epsilon):
    pass


class OwnLinear(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class OwnPool(nn.MaxPool2d):
    pass


class TwoOutputs(nn.ReLU):
    def forward(self, x):
        return super().forward(x), x


def test_changed_rules_and_modules_keep_the_hooks_of_zennit():
    changed = Epsilon()
    changed.gradient_mapper = lambda relevance, outputs: relevance
    reducing = ZPlus()
    reducing.reducer = lambda inputs, gradients: inputs[0]
    modifying = ZPlus()
    modifying.input_modifiers = [lambda x: x, lambda x: x]
    finishing = WSquare()
    finishing.output_modifiers = [lambda output: 2 * output]
    linear, own_forward = nn.Linear(4, 3), nn.Linear(4, 3)
    own_forward.forward = lambda x: x
    for rule in (OwnEpsilon(), changed, reducing, modifying, finishing):
        assert is_kept(rule, linear)
    for module in (
        OwnLinear(4, 3), own_forward, parametrizations.weight_norm(nn.Linear(4, 3)),
        parametrizations.spectral_norm(nn.Conv2d(2, 3, 2)), prune.l1_unstructured(
            nn.Linear(4, 3), "weight", 2
        ), nn.BatchNorm1d(4), nn.BatchNorm2d(4, track_running_stats=False).eval(), nn.Embedding(3, 4), nn.LayerNorm(4),
        nn.Bilinear(2, 2, 3), nn.LazyLinear(3), nn.Identity(), nn.ReLU(),
    ):
        for rule in (Epsilon(), ZPlus(), Gamma(), WSquare(), Flat()):
            assert is_kept(rule, module), (rule, module)
    assert is_kept(Pass(), nn.MultiheadAttention(4, 2)) and is_kept(Pass(), linear) and is_kept(Pass(), nn.MaxPool2d(2))
    assert is_kept(Pass(), TwoOutputs())
    assert is_kept(ReLUGuidedBackprop(), nn.ReLU()) and is_kept(ZBox(-1., 1.), nn.AvgPool2d(2)) and not is_kept(
        ZBox(-1., 1.), linear
    )


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_the_old_weight_norm_keeps_the_hooks_of_zennit():
    assert is_kept(ZPlus(), nn.utils.weight_norm(nn.Linear(4, 3)))


@pytest.mark.parametrize("module", [
    nn.MaxPool1d(2), nn.MaxPool2d(2, return_indices=True), nn.AdaptiveMaxPool2d(2), OwnPool(2), nn.Dropout(), nn.ReLU(),
], ids=str)
def test_modules_without_rule_stay_without(module):
    assert accelerate(everywhere(None)).module_map({}, "", module) is None


@pytest.mark.parametrize("make", [
    lambda: OwnLinear(4, 3), lambda: parametrizations.weight_norm(nn.Linear(4, 3)),
    lambda: parametrizations.orthogonal(nn.Linear(4, 3)), lambda: nn.BatchNorm1d(4),
], ids=["subclass", "weight norm", "orthogonal", "training"])
def test_relevance_through_what_is_not_replaced(make, double):
    model, rule = nn.Sequential(nn.Linear(4, 4), make(), nn.ReLU()), Epsilon()
    assert is_kept(rule, model[1])
    composite = Composite(lambda context, name, module: rule if name in ("0", "1") else None)
    assert_equals_zennit(composite, model, torch.randn(3, 4))


@pytest.mark.parametrize("rule", [OwnEpsilon(.3), ReLUGuidedBackprop()])
def test_relevance_by_a_rule_that_is_not_replaced(rule, double):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    rules = {"0": ZPlus(), "1": rule, "2": rule if isinstance(rule, Epsilon) else Epsilon()}
    assert_equals_zennit(Composite(lambda context, name, module: rules.get(name)), model, torch.randn(3, 4))


def test_relevance_through_attention(double):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.attention = nn.Linear(4, 4), nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            x = self.before(x)
            return self.attention(x, x, x)[0]

    rules = {"before": Epsilon(), "attention.out_proj": Epsilon()}
    composite = Composite(lambda context, name, module: rules.get(name))
    assert_equals_zennit(composite, Attention(), torch.randn(2, 3, 4))


def test_a_rule_with_other_parameter_modifiers(conv, image):
    rule = Epsilon()
    for modifier in (
        lambda parameter, name: 2 * parameter, ParamMod(lambda parameter, name: 3 * parameter, param_keys=["weight"]),
        ParamMod(lambda parameter, name: parameter - 1, param_keys=["bias"], zero_params="bias"),
        ParamMod(lambda parameter, name: parameter + 1, param_keys=[]),
    ):
        rule.param_modifiers = [modifier]
        assert_equals_zennit(everywhere(rule), conv, image)


def test_the_given_composite_is_not_changed(net, model_state):
    data, canonizers = torch.randn(2, 3, 10, 10, dtype=torch.float64), [SequentialMergeBatchNorm()]
    composite = EpsilonPlusFlat(canonizers=canonizers)
    before, state = {**vars(composite)}, model_state(net)
    expected = relevance_of(composite, net, data)
    accelerated = accelerate(composite)
    relevance = relevance_of(accelerated, net, data)
    after = {**vars(composite)}
    assert after.pop("handles") == [] and not after.pop("hook_refs") and composite.canonizers is canonizers
    assert after == {key: before[key] for key in after}
    assert all(not rule.stored_tensors for _, rule in composite.layer_map + composite.first_map)
    assert type(composite.module_map({}, "0", net[0])) is Flat
    assert torch.equal(relevance_of(composite, net, data), expected)
    assert torch.equal(relevance_of(accelerated, net, data), relevance) and deviation(relevance, expected) < 1e-12
    assert model_state(net) == state


def test_nothing_stays_on_the_model(net, model_state):
    state = model_state(net)
    for make in COMPOSITES.values():
        relevance_of(accelerate(make(canonizers=[SequentialMergeBatchNorm()])), net, torch.randn(2, 3, 10, 10).double())
        assert model_state(net) == state


def test_nothing_stays_after_an_exception(net, model_state):
    data, state, composite = torch.randn(2, 3, 10, 10, dtype=torch.float64), model_state(net), EpsilonPlusFlat()
    expected, accelerated = relevance_of(composite, net, data), accelerate(composite)
    with pytest.raises(RuntimeError, match="shape|size"), accelerated.context(net):
        net(torch.randn(2, 3, 14, 14, dtype=torch.float64, requires_grad=True))
    assert model_state(net) == state
    assert deviation(relevance_of(accelerated, net, data), expected) < 1e-12


def test_a_pass_that_failed_does_not_disturb_the_next(double):
    module, x = nn.Linear(4, 3), torch.randn(2, 4, requires_grad=True)
    expected = relevance_of(everywhere(Epsilon()), module, x)
    with accelerate(everywhere(Epsilon())).context(module):
        with pytest.raises(RuntimeError):
            module(torch.randn(2, 5, requires_grad=True))
        output = module(x)
        relevance, = torch.autograd.grad(output, x, some_relevance(output.detach()))
    assert deviation(relevance, expected) < 1e-12


def test_what_a_pass_held_is_freed(conv):
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64, requires_grad=True)
    with accelerate(everywhere(Gamma())).context(conv):
        middle = x * 1
        output = conv(middle)
        seen = weakref.ref(middle), weakref.ref(output)
        torch.autograd.grad(output, x, some_relevance(output.detach()))
        del middle, output
        gc.collect()
        assert [reference() for reference in seen] == [None, None]


def test_composites_that_register_in_their_own_way_are_returned():
    class Own(EpsilonPlus):
        def register(self, module):
            super().register(module)

    assert accelerate(composite := Own()) is composite
    assert accelerate(composite := EpsilonPlus()) is not composite


def test_accelerating_twice_changes_nothing(net):
    data = torch.randn(2, 3, 10, 10, dtype=torch.float64)
    for make in COMPOSITES.values():
        once = accelerate(make())
        assert torch.equal(relevance_of(accelerate(once), net, data), relevance_of(once, net, data))


@pytest.mark.parametrize("rule, sign, expected", [
    (ZPlus(), "positive", (2, 1)), (ZPlus(), "half zeros", (2, 1)), (ZPlus(), "negative", (2, 1)),
    (ZPlus(), "mixed", (3, 2)), (Epsilon(), "mixed", (1, 1)), (Norm(), "mixed", (1, 1)),
    (Epsilon(zero_params="bias"), "mixed", (2, 1)), (AlphaBeta(), "positive", (3, 2)), (AlphaBeta(), "mixed", (5, 4)),
    (AlphaBeta(1, 0), "mixed", (3, 2)), (Gamma(), "positive", (2, 2)), (Gamma(), "mixed", (2, 2)),
    (WSquare(), "mixed", (2, 1)), (Flat(), "mixed", (2, 1)), (ZBox(-1., 2.), "mixed", (4, 3)),
    (ZBox(0., 2.), "positive", (3, 2)),
])
def test_nothing_is_computed_twice(conv, image, rule, sign, expected):
    with Calls() as calls:
        relevance_of(accelerate(everywhere(rule)), conv, SIGNS[sign](image))
    assert calls.convolutions == expected


def test_what_is_equal_for_all_samples_is_computed_for_one(conv, image):
    for rule in (Flat(), WSquare()):
        with Calls() as calls:
            relevance_of(accelerate(everywhere(rule)), conv, image)
        assert [shapes[0][0] for shapes in calls.shapes[CONVOLUTION]] == [2, 1]
    with Calls() as calls:
        relevance_of(accelerate(everywhere(ZBox(-1., 2.))), conv.float(), image.float())
    assert [shapes[0][0] for shapes in calls.shapes[CONVOLUTION]] == [2, 2, 1, 1]


def test_equal_weights_need_one_channel(conv, image):
    with Calls() as calls:
        relevance_of(accelerate(everywhere(Flat())), conv, image)
    (start, _, weight), = calls.shapes[CONVOLUTION_BACKWARD]
    assert start[1] == 1 and weight[:2] == (1, 1)


def test_share_uniform():
    uniform, almost = torch.full((3, 2, 2, 2), .5), torch.full((3, 2, 2, 2), .5)
    almost[1, 1, 0, 1] = .4
    assert share_uniform(uniform).stride()[:2] == (0, 0) and torch.equal(share_uniform(uniform), uniform)
    for other in (almost, torch.full((3, 2), .5), torch.full((3,), .5)):
        assert share_uniform(other) is other


class ChangedInPlace(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return torch.relu_(self.module(x))


@pytest.mark.parametrize("rule, expected", [
    (Epsilon(), (2, 1)), (Norm(), (2, 1)), (Gamma(), (3, 2)), (Gamma(2., zero_params="bias"), (6, 4)),
])
def test_an_output_that_was_changed_in_place_is_computed_again(conv, image, rule, expected):
    model = ChangedInPlace(conv)
    composite = Composite(lambda context, name, module: rule if module is conv else None)
    assert_equals_zennit(composite, model, image)
    with Calls() as calls:
        relevance_of(accelerate(composite), model, image)
    assert calls.convolutions == expected


@pytest.fixture
def counted():
    """A z+ rule that counts how often it modifies weights."""
    rule, counts = ZPlus(), []
    for modifier in rule.param_modifiers:
        original = modifier.modifier

        def counting(parameter, name, original=original):
            counts.append(name)
            return original(parameter, name)

        modifier.modifier = counting
    return rule, counts


def test_parameters_are_modified_once(conv, image, counted):
    rule, counts = counted
    x = image.requires_grad_()
    with accelerate(everywhere(rule)).context(conv):
        for _ in range(2):
            output = conv(x)
            torch.autograd.grad(output, x, output.detach())
    assert counts.count("weight") == 2 and counts.count("bias") == 1


def add_in_place(module, name):
    with torch.no_grad():
        getattr(module, name).add_(1)


def set_data(module, name):
    getattr(module, name).data = getattr(module, name).data + 1


def set_data_in_freed_memory(module, name):
    parameter = getattr(module, name)
    values = (parameter.data + 1).tolist()
    parameter.data = torch.empty(0, dtype=parameter.dtype)
    parameter.data = torch.tensor(values, dtype=parameter.dtype)


def set_parameter(module, name):
    setattr(module, name, nn.Parameter(getattr(module, name).data + 1))


def load(module, name):
    module.load_state_dict({**module.state_dict(), name: getattr(module, name).data + 1})


def change_statistics(module, name):
    module.running_mean += 1
    module.running_var *= 2


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("change", [add_in_place, set_data, set_data_in_freed_memory, set_parameter, load])
@pytest.mark.parametrize("rule", [ZPlus(), Epsilon(zero_params="bias"), Epsilon(), Gamma(), Flat(), WSquare()])
def test_changed_parameters_are_modified_again(conv, image, rule, change, name):
    check_changes(conv, image, rule, change, name)


@pytest.mark.parametrize("change", [add_in_place, change_statistics])
def test_changed_batch_norm(change):
    check_changes(*make_module("batch norm"), Gamma(), change, "weight")


def check_changes(module, x, rule, change, name):
    x.requires_grad_()
    other, relevances = copy.deepcopy(module), []
    for each, composite in ((module, everywhere(rule)), (other, accelerate(everywhere(rule)))):
        relevances.append([])
        with composite.context(each):
            for _ in range(4):
                output = each(x)
                relevances[-1].append(torch.autograd.grad(output, x, some_relevance(output.detach()))[0])
                change(each, name)
    for expected, relevance in zip(*relevances):
        assert deviation(relevance, expected) < 1e-12


def mixed_precision_run(net, data, dtype, composite):
    x = data.requires_grad_()
    with composite.context(net), torch.autocast("cpu", dtype=dtype):
        output = net(x)
        return output.dtype, torch.autograd.grad(output, x, torch.eye(4)[:2].to(output.dtype))[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", COMPOSITES)
def test_autocast(net, dtype, name):
    composite, data = accelerate(COMPOSITES[name]()), torch.randn(2, 3, 10, 10)
    net = randomise_statistics(net).float()
    output_dtype, relevance = mixed_precision_run(net, data, dtype, composite)
    expected = relevance_of(composite, net, data, lambda output: torch.eye(4)[:2])
    assert output_dtype == relevance.dtype == torch.float32 and relevance.isfinite().all()
    assert 0 < deviation(relevance.sum(1), expected.sum(1)) < .03


@pytest.mark.parametrize("rule", [ZPlus(), AlphaBeta(), Flat(), Gamma(), WSquare(), ZBox(-1e3, 1e3)])
def test_denominators_do_not_overflow_in_half_precision(rule):
    module = nn.Conv2d(64, 2, 3, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.ones(2, 64, 3, 3) * torch.tensor([1., -1.] * 32).view(1, 64, 1, 1))
    x = torch.full((1, 64, 5, 5), 1000., requires_grad=True)
    for scope in (torch.autocast("cpu", dtype=torch.float16), torch.autocast("cpu", enabled=False)):
        with accelerate(everywhere(rule)).context(module), scope:
            relevance, = torch.autograd.grad(module(x), x, torch.ones(1, 2, 3, 3))
        assert relevance.dtype == torch.float32 and relevance.isfinite().all()
    torch.testing.assert_close(relevance, relevance_of(everywhere(rule), module, x, torch.ones_like))


def test_epsilon_is_not_lost_in_half_precision():
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1., -1.]]))
    x = torch.ones(1, 2, requires_grad=True)
    with accelerate(everywhere(Epsilon(1e-9))).context(module), torch.autocast("cpu", dtype=torch.float16):
        relevance, = torch.autograd.grad(module(x), x, torch.full((1, 1), 1e-9))
    torch.testing.assert_close(relevance, torch.tensor([[1., -1.]]))


@pytest.mark.parametrize("name", COMPOSITES)
def test_models_in_half_precision(net, name):
    composite, data = accelerate(COMPOSITES[name]()), torch.randn(2, 3, 10, 10).bfloat16()
    net = randomise_statistics(net).bfloat16()


    def heatmap(composite, net, data):
        relevance = relevance_of(composite, net, data, lambda output: torch.eye(4)[:2].to(output.dtype))
        assert relevance.dtype == data.dtype
        return relevance.float().sum(1)

    of_zennit, own = heatmap(COMPOSITES[name](), net, data), heatmap(composite, net, data)
    expected = heatmap(composite, net.float(), data.float())
    assert deviation(own, expected) <= max(.05, 1.5 * deviation(of_zennit, expected))


@pytest.mark.parametrize("name", COMPOSITES)
def test_channels_last(net, name):
    composite, data = COMPOSITES[name](), torch.randn(2, 3, 10, 10, dtype=torch.float64)
    expected, last = relevance_of(composite, net, data), data.to(memory_format=torch.channels_last)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert deviation(relevance_of(accelerate(composite), net, last), expected) < 1e-12
    net.to(memory_format=torch.channels_last)
    for x in (data, last):
        assert deviation(relevance_of(accelerate(composite), net, x), expected) < 1e-12


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


def relevance_of_rows(composite, model, rows, start):
    rows = rows.requires_grad_() if rows.is_leaf else rows
    with composite.context(model):
        output = model(rows if not rows.is_leaf else rows.clone())
        return output.detach(), torch.autograd.grad(output, rows, start)[0]


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


@pytest.mark.parametrize("pool, shape", [
    (nn.MaxPool2d(2), (3, 6, 7)), (nn.MaxPool2d(3, 1), (3, 6, 7)), (nn.MaxPool2d(3, 2, 1), (3, 6, 7)),
    (nn.MaxPool2d(2, 1, 0, 2), (3, 6, 7)), (nn.MaxPool2d((3, 2), (1, 2), (1, 0), (2, 1)), (3, 6, 7)),
    (nn.MaxPool2d(3, 2, ceil_mode=True), (3, 6, 8)), (nn.MaxPool3d(2), (2, 4, 5, 6)),
    (nn.MaxPool3d((3, 2, 2), (1, 2, 1), (1, 0, 1), (1, 2, 1), ceil_mode=True), (2, 4, 5, 6)),
], ids=str)
@pytest.mark.parametrize("change", [lambda x: x, torch.relu, torch.round])
def test_shared_max_pooling(pool, shape, change):
    sample = change(torch.randn(1, *shape).double())
    expected_output, transpose = torch.func.vjp(pool, sample.repeat(5, *[1] * len(shape)))
    starts = torch.randn_like(expected_output), torch.randn_like(expected_output[:1]).expand_as(expected_output)
    for start in starts:
        x = sample.clone().requires_grad_().expand(5, *shape)
        output, relevance = relevance_of_rows(accelerate(everywhere(None)), pool, x, start)
        assert torch.equal(output, expected_output) and deviation(relevance, transpose(start)[0]) < 1e-14
        assert is_shared(output) and is_shared(relevance) == (start is starts[1])
    assert type(accelerate(everywhere(None)).module_map({}, "", pool)) is SharedMaxPool


def test_max_pooling_of_other_batches_is_left_to_autograd():
    x = torch.randn(2, 3, 6, 6, requires_grad=True)
    with accelerate(everywhere(None)).context(nn.MaxPool2d(2)) as pool:
        assert "MaxPool" in pool(x).grad_fn.name()


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


def differentiate(relevance, x):
    return torch.autograd.grad(relevance.sum(), x)


def differentiate_with_the_input(relevance, x):
    return torch.autograd.grad((relevance * x).sum(), x)


def propagate(relevance, x):
    relevance.sum().backward()


@pytest.mark.parametrize("start", [torch.ones_like, lambda output: output])
@pytest.mark.parametrize("use", [differentiate, differentiate_with_the_input, propagate])
@pytest.mark.parametrize("rule, module", [(ZPlus(), nn.Linear(4, 3)), (Pass(), nn.ReLU())])
def test_relevance_cannot_be_differentiated_again(rule, module, use, start):
    x = torch.randn(2, 4, requires_grad=True)
    with accelerate(everywhere(rule)).context(module):
        output = module(x)
        with pytest.raises(RuntimeError, match="cannot be differentiated.*use the composite itself"):
            use(*torch.autograd.grad(output, x, start(output), create_graph=True), x)


@pytest.mark.parametrize("rule, module", [(ZPlus(), nn.Linear(4, 3)), (Pass(), nn.ReLU())])
def test_accelerated_rules_cannot_be_inactive(rule, module):
    x, composite = torch.randn(2, 4, requires_grad=True), accelerate(everywhere(rule))
    with composite.context(module):
        output = module(x)
        with composite.inactive(), pytest.raises(RuntimeError, match="cannot be inactive: use the composite itself"):
            torch.autograd.grad(output.sum(), x, retain_graph=True)
        torch.autograd.grad(output.sum(), x)


def test_parameters_get_no_gradients(net):
    with accelerate(EpsilonPlusFlat()).context(net):
        net(torch.randn(2, 3, 10, 10, dtype=torch.float64, requires_grad=True)).sum().backward()
    assert all(parameter.grad is None for parameter in net.parameters())


def test_an_input_without_gradient_leaves_the_module_as_it_is(double):
    module, x = nn.Linear(4, 3), torch.randn(2, 4)
    with accelerate(everywhere(ZPlus())).context(module):
        module(x).sum().backward()
        with torch.no_grad():
            assert torch.equal(module(x.requires_grad_()), nn.functional.linear(x, module.weight, module.bias))
    torch.testing.assert_close(module.weight.grad, x.detach().sum(0).expand(3, 4))


@pytest.mark.parametrize("module, name", [
    (nn.Linear(4, 3), "input"), (nn.Conv1d(4, 3, 1), "input"), (nn.ConvTranspose1d(4, 3, 1), "input"),
    (nn.AvgPool1d(1), "input"), (Sum(), "input"),
], ids=str)
def test_inputs_by_keyword(module, name):
    x = torch.randn(4, 4)
    expected = relevance_of(everywhere(Epsilon()), module, x)
    x.requires_grad_()
    with accelerate(everywhere(Epsilon())).context(module):
        output = module(**{name: x})
        relevance, = torch.autograd.grad(output, x, some_relevance(output.detach()))
    torch.testing.assert_close(relevance, expected)


class Twice(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x):
        return self.second(self.first(x).relu() - .5)


@pytest.mark.parametrize("rule", [Epsilon(), ZPlus(), Gamma(), AlphaBeta()])
@pytest.mark.parametrize("repeated", [False, True])
def test_each_call_has_its_own_input(rule, repeated, double):
    module, x = nn.Linear(4, 4), torch.randn(3, 4)
    other = copy.deepcopy(module)
    other.weight, other.bias = module.weight, module.bias
    expected = relevance_of(everywhere(rule), Twice(module, other), x)
    relevance = relevance_of(accelerate(everywhere(rule), repeated=repeated), Twice(module, module), x)
    assert deviation(relevance, expected) < 1e-12
    assert deviation(relevance_of(everywhere(rule), Twice(module, module), x), expected) > 1e-3


def test_two_passes_in_one_context_can_be_open(conv, image):
    inputs = [image, torch.randn_like(image)]
    expected = [relevance_of(everywhere(Gamma()), conv, x) for x in inputs]
    with accelerate(everywhere(Gamma())).context(conv):
        outputs = [conv(x.requires_grad_()) for x in inputs]
        for x, output, other in zip(inputs, outputs, expected):
            relevance, = torch.autograd.grad(output, x, some_relevance(output.detach()))
            assert deviation(relevance, other) < 1e-12


def test_checkpointed_layers(conv, image):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.last = conv, nn.ReLU(), nn.Conv2d(16, 2, 3).double()

        def forward(self, x):
            return checkpoint(lambda x: self.last(self.relu(self.conv(x))), x, use_reentrant=False)

    rules = {"conv": ZPlus(), "relu": Pass(), "last": Epsilon()}
    composite, model = Composite(lambda context, name, module: rules.get(name)), Model()
    plain = nn.Sequential(conv, model.relu, model.last)
    by_position = Composite(lambda context, name, module: dict(zip("012", rules.values())).get(name))
    expected = relevance_of(by_position, plain, image)
    assert deviation(relevance_of(accelerate(composite), model, image), expected) < 1e-12


@pytest.mark.parametrize("name", [
    "linear", "conv2d", "conv2d, reflect", "transposed conv2d", "batch norm", "average2d", "sum"
])
def test_empty_batches(name):
    module, x = make_module(name)
    for rule in RULES.values():
        assert relevance_of(everywhere(rule), module, x[:0]).shape == x[:0].shape
        assert relevance_of(accelerate(everywhere(rule)), module, x[:0]).shape == x[:0].shape


@pytest.mark.parametrize("rules_first", [False, True])
def test_masks_by_hand(net, rules_first):
    data = torch.randn(2, 3, 10, 10, dtype=torch.float64, requires_grad=True)
    masks = NameMapComposite([(["2"], MaskHook([ChannelConcept.mask(0, [1]), ChannelConcept.mask(1, [2, 3])]))])
    results = []
    for rules in (EpsilonPlusFlat(), accelerate(EpsilonPlusFlat())):
        first, second = (rules, masks) if rules_first else (masks, rules)
        with first.context(net), second.context(net):
            output = net(data)
            results.append(torch.autograd.grad(output, data, some_relevance(output.detach()))[0])
    assert results[0].any() and deviation(*reversed(results)) < 1e-12


class Doubling(Hook):
    def backward(self, module, grad_input, grad_output):
        return tuple(2 * gradient for gradient in grad_input)


@pytest.mark.parametrize("rules_first", [False, True])
def test_other_hooks_of_zennit_beside_the_rules(net, rules_first):
    data = torch.randn(2, 3, 10, 10, dtype=torch.float64, requires_grad=True)
    doubling, results = NameMapComposite([(["2"], Doubling())]), []
    for rules in (EpsilonPlusFlat(), accelerate(EpsilonPlusFlat())):
        first, second = (rules, doubling) if rules_first else (doubling, rules)
        with first.context(net), second.context(net):
            output = net(data)
            results.append(torch.autograd.grad(output, data, some_relevance(output.detach()))[0])
    assert deviation(*reversed(results)) < 1e-12


@pytest.mark.parametrize("before", [False, True])
def test_forward_hooks_of_the_user_read_relevance(net, before):
    data, results = torch.randn(2, 3, 10, 10, dtype=torch.float64, requires_grad=True), []
    for composite in (EpsilonPlusFlat(), accelerate(EpsilonPlusFlat())):
        seen = []

        def read(module, args, output):
            output.register_hook(seen.append)

        handle = net[2].register_forward_hook(read) if before else None
        with composite.context(net):
            handle = handle or net[2].register_forward_hook(read)
            output = net(data)
            torch.autograd.grad(output, data, some_relevance(output.detach()))
        handle.remove()
        results.append(seen)
    (expected,), (relevance,) = results
    assert deviation(relevance, expected) < 1e-12


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
