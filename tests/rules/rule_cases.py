"""Modules, rules and networks to compare accelerated rules with those of zennit."""
from collections import defaultdict

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from zennit.composites import EpsilonAlpha2Beta1, EpsilonGammaBox, EpsilonPlusFlat
from zennit.core import Composite, Stabilizer
from zennit.layer import Sum
from zennit.rules import AlphaBeta, Epsilon, Flat, Gamma, Norm, WSquare, ZBox, ZPlus

from crp.rules.acceleration import accelerate
from crp.rules.attach import registered

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


COMPOSITES = {
    "plus flat": EpsilonPlusFlat,
    "gamma box": lambda canonizers=None: EpsilonGammaBox(-3., 3., canonizers=canonizers),
    "alpha 2 beta 1": EpsilonAlpha2Beta1,
}


def positive(z):
    return z.clamp(min=0)


def negative(z):
    return z.clamp(max=0)


def relevance_of_rows(composite, model, rows, start):
    rows = rows.requires_grad_() if rows.is_leaf else rows
    with composite.context(model):
        output = model(rows if not rows.is_leaf else rows.clone())
        return output.detach(), torch.autograd.grad(output, rows, start)[0]
