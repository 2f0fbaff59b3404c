"""Operations that write to their inputs."""
import pytest
import torch
from operations_by_contribution import random, send_back, stabilize
from torch import nn
from torch.nn import functional
from zennit.composites import EpsilonPlus

from crp.attribution import CondAttribution


def test_in_place_forms_write_and_send_as_the_others():
    def ignoring_what_they_return(a, b):
        a.add_(b)
        a.mul_(2)
        a.sub_(1)
        functional.relu(a, inplace=True)
        torch.nn.functional.hardtanh_(a, -9., 9.)
        a.div_(3)
        return a

    def with_operators(a, b):
        a += b
        a *= 2
        a -= 1
        a = a.relu()
        a = a.clamp(-9, 9)
        a /= 3
        return a

    def out_of_place(a, b):
        return ((a + b) * 2 - 1).relu().clamp(-9, 9) / 3

    inputs, relevance = [random(3, 4), random(3, 4)], random(3, 4)
    expected = send_back(out_of_place, inputs, relevance)
    for function in (ignoring_what_they_return, with_operators):
        found = send_back(function, inputs, relevance)
        torch.testing.assert_close(found[1], expected[1])
        torch.testing.assert_close(found[0], expected[0])


def test_writing_to_parts_of_a_tensor():
    def in_slices(a, b):
        a[:, 0] += b[:, 0]
        a[:, 1] = b[:, 1] * 2
        a[0, 2:].relu_()
        return a

    a, b = random(3, 4), random(3, 4)
    (of_a, of_b), output, relevance = send_back(in_slices, [a, b])
    torch.testing.assert_close(output, in_slices(a.clone(), b))
    s = relevance[:, 0] / stabilize(a[:, 0] + b[:, 0])
    nothing = torch.zeros(3, dtype=torch.double)
    torch.testing.assert_close(of_a, torch.stack([a[:, 0] * s, nothing, relevance[:, 2], relevance[:, 3]], 1))
    torch.testing.assert_close(of_b, torch.stack([b[:, 0] * s, relevance[:, 1], nothing, nothing], 1))


@pytest.mark.parametrize("change", [
    lambda x, y: y.add_(1), lambda x, y: x.mul_(2), lambda x, y: y.masked_fill_(y > 0, 3.), lambda x, y: y.relu_(),
])
def test_models_that_write_to_what_a_rule_reads(change):
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(5, 4), nn.Linear(4, 2)

        def forward(self, x):
            x = self.layer(x)
            y = functional.softmax(x + x.sigmoid(), -1)
            kept = y @ y.mT
            change(x, y)
            return self.head(kept @ (x + y))

    class Copying(Writing):
        def forward(self, x):
            x = self.layer(x)
            y = functional.softmax(x + x.sigmoid(), -1)
            kept = y @ y.mT
            x, y = x.clone(), y.clone()
            change(x, y)
            return self.head(kept @ (x + y))

    model, x = Writing().double(), random(3, 6, 5)
    twin = Copying().double()
    twin.load_state_dict(model.state_dict())
    ours, expected = (
        CondAttribution(net, heatmap_axis=-1)(x, [{"y": [(0, 1)]}], EpsilonPlus()).heatmap for net in (model, twin)
    )
    torch.testing.assert_close(ours, expected)
