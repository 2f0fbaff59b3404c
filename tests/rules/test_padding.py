"""Zeros around an input, put there by a layer or before it."""
import pytest
import torch
from torch import nn
from torch.nn import functional
from zennit.composites import EpsilonAlpha2Beta1Flat, EpsilonGammaBox, EpsilonPlus, EpsilonPlusFlat
from zennit.core import Composite
from zennit.rules import WSquare

from crp.attribution import CondAttribution


class Padded(nn.Module):
    def __init__(self, pad, kind=nn.Conv2d):
        super().__init__()
        self.pad = pad
        self.first, self.second = kind(2, 8, 5, padding=0 if pad else 2), nn.Conv2d(8, 3, 3)

    def forward(self, x):
        x = self.pad(x) if self.pad else x
        return self.second(self.first(x).relu()).mean((2, 3))


PADS = {
    "function": lambda x: functional.pad(x, (2, 2, 2, 2)),
    "value": lambda x: functional.pad(x, [2] * 4, "constant", 0.),
    "two steps": lambda x: torch.constant_pad_nd(functional.pad(x, (2, 2)), (0, 0, 2, 2)),
    "module": nn.ZeroPad2d(2),
}
COMPOSITES = {
    "EpsilonPlusFlat": EpsilonPlusFlat(), "EpsilonPlus": EpsilonPlus(), "AlphaBetaFlat": EpsilonAlpha2Beta1Flat(),
    "Box": EpsilonGammaBox(low=-3., high=3.),
    "WSquare": Composite(lambda context, name, module: WSquare() if isinstance(module, nn.Conv2d) else None),
}


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("pad", PADS)
def test_heatmaps_are_those_of_the_layers_own_padding(pad, name):
    own, before = Padded(None).double().eval(), Padded(PADS[pad]).double().eval()
    before.load_state_dict(own.state_dict())
    x, composite = torch.randn(2, 2, 9, 9, dtype=torch.double), COMPOSITES[name]
    record = ["pad"] if pad == "module" else []  # reading a layer changes nothing
    found, expected = (
        CondAttribution(model)(x, [{"y": [1]}], composite, record_layer=layers)
        for model, layers in ((before, record), (own, []))
    )
    torch.testing.assert_close(found.heatmap, expected.heatmap)
    audits = [CondAttribution(model).audit(x, composite) for model in (before, own)]
    assert audits[0].total == pytest.approx(audits[1].total, rel=1e-4) and not audits[0].faults


@pytest.mark.parametrize("pad", [
    lambda x: functional.pad(x, [2] * 4, value=1.), lambda x: functional.pad(x, [2] * 4, mode="reflect"),
], ids=["ones", "reflected"])
def test_other_padding_takes_its_share(pad):
    model, x = Padded(pad).double().eval(), torch.randn(1, 2, 9, 9, dtype=torch.double)
    heatmap = CondAttribution(model)(x, [{"y": [1]}], EpsilonPlusFlat(), init_rel=1).heatmap
    inside = CondAttribution(Padded(None).double().eval())(x, [{"y": [1]}], EpsilonPlusFlat(), init_rel=1).heatmap
    assert not torch.allclose(heatmap / heatmap.sum(), inside / inside.sum())


def test_padding_that_is_written_to_is_none():
    def circular(x):
        x = functional.pad(x, [2] * 4)
        x[..., :2].copy_(x[..., -4:-2])
        x[..., -2:].copy_(x[..., 2:4])
        x[..., :2, :].copy_(x[..., -4:-2, :])
        x[..., -2:, :].copy_(x[..., 2:4, :])
        return x

    x = torch.randn(1, 2, 9, 9, dtype=torch.double)
    models = [Padded(pad).double().eval() for pad in (circular, lambda x: functional.pad(x, [2] * 4, mode="circular"))]
    models[1].load_state_dict(models[0].state_dict())
    found, expected = (CondAttribution(model)(x, [{"y": [1]}], EpsilonPlusFlat()).heatmap for model in models)
    torch.testing.assert_close(found, expected)
