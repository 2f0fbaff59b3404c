import pytest
import torch
import torchvision
from torch import nn
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlus, EpsilonPlusFlat, GuidedBackprop, LayerMapComposite
from zennit.core import Composite
from zennit.rules import Epsilon, Gamma, ZPlus

from crp.attribution import CondAttribution
from crp.composites import LanguageModel, VisionTransformer, default_composite, gives_relevance


class Projections(nn.Module):
    """Attention by its layers; the name does not say so."""

    def __init__(self, is_joint):
        super().__init__()
        widths = [("qkv", 24), ("out", 8)] if is_joint else [(name, 8) for name in ("q", "k", "v", "out")]
        for name, width in widths:
            setattr(self, name, nn.Linear(8, width))


class ChannelAttention(nn.Module):
    """Of CBAM: no attention, but for its name."""

    def __init__(self):
        super().__init__()
        self.squeeze, self.excite = nn.Linear(8, 2), nn.Linear(2, 8)


class Outputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.age, self.kind, self.colour, self.size = (nn.Linear(8, 3) for _ in range(4))


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4)
        self.first, self.second, self.third, self.last = *(nn.Linear(32, 32) for _ in range(3)), nn.Linear(32, 10)


class WithAttention(nn.Module):
    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 3)


@pytest.mark.parametrize("model, kind, said", [
    (torchvision.models.resnet18(), EpsilonPlusFlat,
     "EpsilonPlusFlat (ZPlus in convolutions, Epsilon in linear layers, Flat in 'conv1')"),
    (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), EpsilonPlus,
     "EpsilonPlus (ZPlus in convolutions, Epsilon in linear layers)"),
    (WithAttention(nn.Conv2d(3, 8, 4)), VisionTransformer,
     "VisionTransformer (Gamma in convolutions and linear layers)"),
    *((nn.Sequential(nn.Conv2d(3, 8, 4), nn.ReLU(), Projections(is_joint), nn.Linear(8, 3)), VisionTransformer,
       "VisionTransformer (Gamma in convolutions and linear layers)") for is_joint in (True, False)),
    *((nn.Sequential(nn.Conv2d(3, 8, 4), nn.ReLU(), part), EpsilonPlusFlat,
       "EpsilonPlusFlat (ZPlus in convolutions, Epsilon in linear layers, Flat in '0')")
      for part in (ChannelAttention(), Outputs(), nn.Sequential(*(nn.Linear(8, 8) for _ in range(5))))),
    (nn.Sequential(Projections(is_joint=True)), LanguageModel, "LanguageModel (Epsilon in linear layers)"),
    *((nn.Sequential(nn.Conv1d(1, 4, size, dilation=step), nn.ReLU()), EpsilonPlus,
       "EpsilonPlus (ZPlus in convolutions, Epsilon in linear layers)") for size, step in ((64, 1), (32, 4))),
    (nn.Sequential(nn.Conv1d(1, 4, 63), nn.ReLU()), EpsilonPlusFlat,
     "EpsilonPlusFlat (ZPlus in convolutions, Epsilon in linear layers, Flat in '0')"),
    (Classifier(), EpsilonPlusFlat,
     "EpsilonPlusFlat (ZPlus in convolutions, Epsilon in linear layers, Flat in 'conv')"),
    (WithAttention(nn.Embedding(9, 8)), LanguageModel, "LanguageModel (Epsilon in linear layers)"),
])
def test_it_chooses_by_the_kind_of_model_and_says_so(model, kind, said, capsys):
    composite = default_composite(model)
    assert type(composite) is kind and not composite.canonizers
    assert capsys.readouterr().out == f"composite: {said}\n"
    default_composite(model, verbose=False)
    assert capsys.readouterr().out == ""


def test_models_without_linear_layers():
    with pytest.raises(ValueError, match="no linear layer"):
        default_composite(nn.Sequential(nn.ReLU()))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_scripts_are_refused_as_by_attributions():
    script = torch.jit.trace(nn.Linear(2, 2), torch.rand(1, 2))
    with pytest.raises(TypeError, match="script, which hides what happens in it: use the model that was scripted"):
        default_composite(script)


@pytest.mark.parametrize("preset, expected", [
    (VisionTransformer(2., 3., .1), {nn.Conv2d: Gamma(3., .1), nn.Linear: Gamma(2., .1)}),
    (VisionTransformer(), {nn.Conv2d: Gamma(.25), nn.Linear: Gamma(.05)}),
    (LanguageModel(.5), {nn.Conv2d: Epsilon(.5), nn.Linear: Epsilon(.5)}),
])
def test_rules_of_the_presets(preset, expected):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 2)).double()
    x = torch.randn(4, 2, 3, 3, dtype=torch.double, requires_grad=True)
    heatmaps = []
    for composite in (preset, Composite(lambda context, name, module: expected.get(type(module)))):
        with composite.context(model):
            output = model(x)
            heatmaps += torch.autograd.grad(output, x, output.detach())
    torch.testing.assert_close(*heatmaps)


@pytest.mark.parametrize("attention_gamma, gamma", [(None, .05), (0, 0), (.5, .5)])
def test_rule_of_the_projections_of_attention(attention_gamma, gamma):
    block = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0).double().eval()
    ways, asked = {"self_attn": gamma, "self_attn.out_proj": gamma, "linear1": .05, "linear2": .05}, set()

    def by_name(context, name, module):
        asked.add(name)
        return Gamma(ways[name]) if isinstance(module, nn.Linear) and name in ways else None

    x, attribution = torch.randn(2, 5, 8, dtype=torch.double), CondAttribution(block, heatmap_axis=None)
    found, expected = (
        attribution(x, [{"y": [(0, 1)]}], composite).heatmap
        for composite in (VisionTransformer(attention_gamma=attention_gamma), Composite(by_name))
    )
    assert ways.keys() <= asked
    torch.testing.assert_close(found, expected)


def test_which_composites_give_relevance():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU())
    assert gives_relevance(EpsilonPlus(), model) and gives_relevance(EpsilonPlusFlat(), model)
    assert gives_relevance(EpsilonPlus(), nn.ReLU())  # its functional linear operations have a rule
    assert not gives_relevance(GuidedBackprop(), model)


@pytest.mark.parametrize("preset", [VisionTransformer, LanguageModel])
def test_presets_take_canonizers(preset):
    canonizer = SequentialMergeBatchNorm()
    assert preset(canonizers=[canonizer]).canonizers == [canonizer]


def test_a_rule_for_convolutions_alone_gives_relevance():
    composite = LayerMapComposite([(nn.Conv2d, ZPlus())])
    assert gives_relevance(composite, nn.Linear(2, 2)) and gives_relevance(composite, nn.Conv2d(1, 1, 1))
