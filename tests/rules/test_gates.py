"""Gates of gated MLPs, as factors that share relevance and as constants."""
import pytest
import torch
from torch import nn
from torch.nn import functional

from crp.attribution import CondAttribution
from crp.composites import LanguageModel


class GatedMLP(nn.Module):
    def __init__(self, activation, then=torch.clone):
        super().__init__()
        self.activation, self.then = activation, then
        self.gate, self.up, self.down = nn.Linear(8, 16, False), nn.Linear(8, 16, False), nn.Linear(16, 3, False)

    def forward(self, x):
        return self.down(self.then(self.activation(self.gate(x))) * self.up(x))


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


ACTIVATIONS = {
    "functional": functional.silu, "module": nn.SiLU(), "own module": Swish(), "gelu": functional.gelu,
    "then routed": lambda x: functional.silu(x).view_as(x).clone(),
}


def relevance_of(model, x, functional):
    attribution = CondAttribution(model, heatmap_axis=None, functional=functional)
    result = attribution(x, [{"y": [1]}], LanguageModel(1e-10), ["gate", "up"])
    return result.heatmap, result.relevances["gate"], result.relevances["up"]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gates_get_half_or_nothing(name):
    model = GatedMLP(ACTIVATIONS[name]).double().eval()
    x = torch.randn(2, 8, dtype=torch.double)
    up, gate = model.up(x), model.activation(model.gate(x))
    of_product = up * gate * model.down.weight[1]
    for functional_, share in (("attnlrp", .5), ("cp-lrp", .5), ("cp-lrp-gates", 1)):
        heatmap, of_gate, of_up = relevance_of(model, x, functional_)
        torch.testing.assert_close(of_up, share * of_product, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(of_gate, (1 - share) * of_product, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(heatmap.sum(1), of_product.sum(1), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("then", [nn.Linear(16, 16, False), torch.neg], ids=["linear layer", "nothing nonlinear"])
def test_what_is_computed_from_gates_is_none(then):
    activation = functional.silu if isinstance(then, nn.Linear) else nn.Identity()
    model = GatedMLP(activation, then).double().eval()
    _, of_gate, of_up = relevance_of(model, torch.randn(1, 8, dtype=torch.double), "cp-lrp-gates")
    torch.testing.assert_close(of_gate.sum(), of_up.sum(), rtol=1e-6, atol=0)
