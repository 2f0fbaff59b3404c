"""Conditions on layers that run several times: side by side, as a shared encoder does, or one after another."""
import pytest
import torch
from torch import nn
from zennit.composites import LayerMapComposite
from zennit.rules import Epsilon

from crp.attribution import CondAttribution

RULES = {"composite": LayerMapComposite([(nn.Linear, Epsilon(1e-9))])}


class SharedEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
        self.out = nn.Linear(8, 2)

    def forward(self, a, b):
        return self.out(torch.cat([self.encoder(a), self.encoder(b)], 1))


class Repeated(nn.Module):
    """A linear layer that runs twice, with ways around the second run and around both."""

    def __init__(self):
        super().__init__()
        self.inner, self.between = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.out = nn.Linear(4, 3, bias=False)

    def forward(self, x):
        once = self.inner(self.between(x))
        return self.out(self.inner(self.between(once)) + once + x)


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return torch.rand(3, 6, dtype=torch.double), torch.rand(3, 6, dtype=torch.double)


@pytest.mark.parametrize("options", [{}, {"exclude_parallel": False}])
@pytest.mark.parametrize("layers", [["encoder.1"], ["encoder.2", "encoder.0"], ["encoder"]])
def test_concepts_of_a_shared_encoder_add_up_to_the_heatmaps_of_both_inputs(pair, layers, options):
    attribution = CondAttribution(SharedEncoder().double().eval(), heatmap_axis=None)
    whole = attribution(pair, [{"y": [0]}], **RULES).heatmap
    first, *others = layers
    count = 4 if first in ("encoder", "encoder.2") else 8
    conditions = [{first: [c], **{layer: list(range(8)) for layer in others}, "y": [0]} for c in range(count)]
    parts = [attribution(pair, [condition], **RULES, **options).heatmap for condition in conditions]
    for i in range(2):
        assert whole[i].abs().sum() > 0.01
        torch.testing.assert_close(sum(part[i] for part in parts), whole[i])


@pytest.mark.parametrize("layers", [["inner"], ["inner", "between"]])
def test_relevance_takes_every_way_through_a_repeated_layer_and_none_around_it(layers):
    torch.manual_seed(1)
    model, x = Repeated().double().eval(), torch.rand(2, 4, dtype=torch.double)
    step = model.inner.weight @ model.between.weight
    through = model.out.weight[1] @ (step @ step + step)  # without the way of x to the output
    condition = {layer: list(range(4)) for layer in layers} | {"y": [1]}
    attribution = CondAttribution(model, heatmap_axis=None)
    torch.testing.assert_close(attribution(x, [condition], **RULES).heatmap, (x * through).detach())
    of_one, of_others = (
        attribution(x, [{**condition, layers[0]: ids}], **RULES).heatmap for ids in ([2], [0, 1, 3])
    )
    kept = torch.zeros(4, 4, dtype=torch.double)
    kept[2, 2] = 1
    inner = kept @ step
    passed = model.out.weight[1] @ (inner @ inner + inner)  # masked at each call
    torch.testing.assert_close(of_one, (x * passed).detach())
    assert not torch.allclose(of_one + of_others, (x * through).detach())  # ways from concept 2 to others are in none


def test_generate_and_several_rows_go_through_every_call(pair):
    attribution = CondAttribution(SharedEncoder().double().eval(), heatmap_axis=None)
    conditions = [{"encoder.1": [c], "y": [0]} for c in range(8)]
    one = tuple(part[:1] for part in pair)
    together = attribution(one, conditions, **RULES).heatmap
    results = list(attribution.generate(one, conditions, **RULES, batch_size=3, verbose=False))
    for i in range(2):
        generated = torch.cat([result.heatmap[i] for result in results])
        torch.testing.assert_close(generated, together[i])
        assert (generated.abs().sum(1) > 0).any()


def test_a_layer_that_relevance_does_not_reach_is_named(pair):
    class Unused(SharedEncoder):
        def forward(self, a, b):
            self.encoder(a)
            return self.out(torch.cat([self.encoder(a), self.encoder(b)], 1).detach() + (a.sum() + b.sum()) * 0)

    attribution = CondAttribution(Unused().double().eval(), heatmap_axis=None)
    with pytest.raises(ValueError, match="no relevance reaches 'encoder.1'"):
        attribution(pair, [{"encoder.1": [0], "y": [0]}], **RULES)
