"""What users override."""
import torch
from networks_by_hand import assert_rows, close, conv_net, images, mixed_conditions, names_of
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution


def test_an_overridden_backward_gets_the_documented_arguments():
    seen = []

    class Own(CondAttribution):
        def backward(self, pred, grad_mask, partial_backward, layer_names, layer_out, generate=False):
            seen.append((pred.shape, grad_mask.shape, partial_backward, list(layer_names), set(layer_out), generate))
            return super().backward(pred, 2 * grad_mask, partial_backward, layer_names, layer_out, generate)

    net, data = conv_net(), images()
    conditions = [{"conv2": [0], "conv1": [1], "y": [0]}]
    expected = CondAttribution(net)(data, conditions, EpsilonPlusFlat()).heatmap
    close(Own(net)(data, conditions, EpsilonPlusFlat(), ["fc1"]).heatmap, 2 * expected)
    close(next(Own(net).generate(data, conditions, EpsilonPlusFlat(), verbose=False)).heatmap, 2 * expected)
    shape = torch.Size([1, 3])
    assert seen == [
        (shape, shape, True, ["conv2", "conv1"], {"fc1", "conv2", "conv1"}, False),
        (shape, shape, True, ["conv2", "conv1"], {"conv2", "conv1"}, True),
    ]


def test_an_overridden_backward_may_call_autograd_itself():
    class Own(CondAttribution):
        def backward(self, pred, grad_mask, partial_backward, layer_names, layer_out, generate=False):
            pred.backward(grad_mask, retain_graph=True)

    net, data = conv_net(), images()
    result = Own(net)(data, [{"conv2": [0], "y": [0]}], EpsilonPlusFlat(), names_of(net))
    assert_rows(result, net, data, [{"conv2": [0], "y": [0]}])


def test_an_overridden_relevance_init_is_honoured():
    seen = []

    class Own(CondAttribution):
        def relevance_init(self, prediction, target_list, init_rel):
            seen.append((target_list, init_rel))
            return torch.ones_like(prediction)

    net, data = conv_net(), images()
    result = Own(net)(data, [{"y": [0]}, {"y": [1, 2]}], EpsilonPlusFlat(), init_rel=5)
    assert_rows(result, net, data.expand(2, -1, -1, -1), [{}, {}], init=torch.ones(1, 3))
    assert seen == [([[0], [1, 2]], 5)]


def test_an_overridden_heatmap_modifier_is_honoured():
    class Own(CondAttribution):
        def heatmap_modifier(self, data, on_device=None):
            return data.grad.abs().amax(1)

    net, data = conv_net(), images()
    plain = CondAttribution(net, heatmap_axis=None)(data, mixed_conditions(), EpsilonPlusFlat()).heatmap
    close(Own(net)(data, mixed_conditions(), EpsilonPlusFlat()).heatmap, plain.abs().amax(1))


def test_an_overridden_broadcast_is_honoured():
    class AlwaysProduct(CondAttribution):
        def broadcast(self, data, conditions):
            return data.repeat_interleave(len(conditions), 0), conditions * len(data)

    net, data = conv_net(), images(2)
    conditions = [{"conv1": [0], "y": [0]}, {"conv2": [1], "y": [1]}]
    result = AlwaysProduct(net)(data, conditions, EpsilonPlusFlat())
    assert_rows(result, net, data.repeat_interleave(2, 0), conditions * 2)
