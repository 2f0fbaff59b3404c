"""Rules work on the weight that a layer uses, wherever it comes from: heatmaps are those of a plain layer with it."""
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune
from zennit.composites import EpsilonAlpha2Beta1, EpsilonGammaBox, EpsilonPlus, EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.composites import LanguageModel, VisionTransformer
from crp.rules.used_weights import computes_weight

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
COMPOSITES = [
    EpsilonPlus, EpsilonPlusFlat, EpsilonAlpha2Beta1, LanguageModel, VisionTransformer,
    lambda: EpsilonGammaBox(low=-3., high=3.),
]


class Standardised(nn.Conv2d):
    def used(self):
        weight = self.weight.flatten(1)
        return ((weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True)).view_as(self.weight)

    def forward(self, x):
        return functional.conv2d(x, self.used(), self.bias, self.stride)


class Negative(nn.Linear):
    def used(self):
        return -self.weight.T.T.exp()

    def forward(self, x):
        return functional.linear(x, weight=self.used(), bias=self.bias)


class Adapted(nn.Linear):
    """As LoRA does: a low-rank part beside the weight."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.down, self.up = nn.Parameter(torch.randn(2, sizes[0])), nn.Parameter(torch.randn(sizes[1], 2))

    def used(self):
        return self.weight + self.up @ self.down

    def forward(self, x):
        return functional.linear(x, self.used(), self.bias)


def pruned():
    layer = nn.Conv2d(3, 6, 3)
    prune.l1_unstructured(layer, "weight", .4)
    return layer


LAYERS = {
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(3, 6, 3)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Conv2d(3, 6, 3)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(8, 8)),
    "weight norm by hooks": lambda: nn.utils.weight_norm(nn.Conv2d(3, 6, 3)),
    "spectral norm by hooks": lambda: nn.utils.spectral_norm(nn.Linear(8, 4)),
    "transposed": lambda: parametrizations.weight_norm(nn.ConvTranspose2d(3, 6, 3, stride=2)),
    "signal": lambda: parametrizations.weight_norm(nn.Conv1d(3, 6, 3, padding=1, padding_mode="circular")),
    "pruned": pruned,
    "standardised": lambda: Standardised(3, 6, 3, stride=2),
    "negative": lambda: Negative(8, 4),
    "adapted": lambda: Adapted(8, 4),
}


def plain(layer):
    """The layer of PyTorch's with the weight that another uses."""
    kind = next(kind for kind in type(layer).__mro__ if kind.__module__.startswith("torch.nn.modules."))
    weight = layer.used() if hasattr(layer, "used") else layer.weight
    twin = kind.__new__(kind)
    names = ("_parameters", "_buffers", "_modules", "_forward_pre_hooks")
    vars(twin).update({**vars(layer), **{name: type(vars(layer)[name])() for name in names}})
    vars(twin).pop("weight", None)
    twin.weight, twin.bias = nn.Parameter(weight.detach().clone()), layer.bias
    return twin


@pytest.mark.parametrize("composite", COMPOSITES, ids=lambda make: type(make()).__name__)
@pytest.mark.parametrize("name", LAYERS)
def test_heatmaps_are_those_of_a_plain_layer(name, composite, model_state):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    shape = (2, 8) if isinstance(layer, nn.Linear) else (2, 3, 9) if isinstance(layer, nn.Conv1d) else (2, 3, 8, 8)
    x = torch.randn(shape, dtype=torch.double)
    features = layer.double().eval()(x).flatten(1).shape[1]
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(features, 4)).double().eval()
    twin = nn.Sequential(plain(layer), *model[1:]).eval()
    torch.testing.assert_close(model(x), twin(x))
    before = model_state(model)
    heatmaps = [CondAttribution(each)(x, [{"y": [1]}], composite()).heatmap for each in (model, twin)]
    torch.testing.assert_close(*heatmaps, rtol=1e-9, atol=1e-12)
    assert heatmaps[0].any() and model_state(model) == before
    audit = CondAttribution(model).audit(x, composite())
    assert audit.accounted == pytest.approx(1) and not audit.faults


def test_layers_of_pytorch_and_subclasses_that_leave_forward_alone_carry_rules():
    class Named(nn.Conv2d):
        pass

    plain = [nn.Linear(2, 2), nn.Conv2d(1, 1, 1), Named(1, 1, 1), nn.MultiheadAttention(4, 1).out_proj, nn.ReLU()]
    assert not any(map(computes_weight, plain))
    assert all(computes_weight(make()) for make in LAYERS.values())


def test_merging_leaves_batch_norms_behind_such_layers_alone():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    norm.running_mean.normal_()
    norm.running_var.uniform_(.5, 2)
    layer, x = Standardised(3, 6, 3), torch.randn(2, 3, 6, 6, dtype=torch.double)
    model = nn.Sequential(layer, norm, nn.Flatten(), nn.Linear(96, 2)).double().eval()
    torch.testing.assert_close(CondAttribution(model)(x, [{"y": [0]}], EpsilonPlus()).prediction, model(x))
    assert CondAttribution(model).audit(x, EpsilonPlus()).accounted == pytest.approx(1)
