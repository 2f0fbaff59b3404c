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


@pytest.mark.parametrize(
    "write", [torch.Tensor.add_, lambda h, x: h.__setitem__(slice(None), h + x)], ids=["add_", "="]
)
def test_what_is_written_to_is_no_gate_any_more(write):
    class Residual(nn.Module):
        def __init__(self, in_place):
            super().__init__()
            self.gate, self.up, self.in_place = nn.Linear(8, 8, False), nn.Linear(8, 8, False), in_place

        def forward(self, x):
            h = functional.relu(self.gate(x))
            if self.in_place:
                write(h, x)
            else:
                h = h + x
            return h * self.up(x)

    models = [Residual(in_place).double().eval() for in_place in (True, False)]
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randn(2, 8, dtype=torch.double)
    found, expected = (
        CondAttribution(model, heatmap_axis=None, functional="cp-lrp-gates")(x, [{"y": [1]}], LanguageModel()).heatmap
        for model in models
    )
    torch.testing.assert_close(found, expected)
