"""What conditions may say, and in which order their rows come."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks_by_hand import (
    assert_rows,
    assert_same_results,
    close,
    condition_strategy,
    conv_net,
    images,
    mixed_conditions,
    names_of,
)
from torch import nn
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept


@pytest.mark.parametrize("exclude_parallel", [True, False])
def test_known_bug_conditions_over_mixed_layers_came_back_in_another_order(exclude_parallel):
    net, data = conv_net(), images()
    conditions = mixed_conditions()
    result = CondAttribution(net)(
        data, conditions, EpsilonPlusFlat(), names_of(net), exclude_parallel=exclude_parallel
    )
    assert_rows(result, net, data.expand(len(conditions), -1, -1, -1), conditions)


def test_known_bug_two_samples_with_two_mixed_conditions_gave_four_outputs():
    net, data = conv_net(), images(2)
    conditions = [{"conv1": [0], "y": [0]}, {"conv2": [1], "y": [1]}]
    result = CondAttribution(net)(data, conditions, EpsilonPlusFlat(), names_of(net))
    assert result.heatmap.shape == (2, 6, 6)
    assert_rows(result, net, data, conditions)


@pytest.mark.parametrize("conditions", [
    [{"conv1": [0], "y": [0]}, {"conv1": [1]}, {"conv1": [2], "y": [2]}],
    [{"conv1": [0]}, {"conv2": [1], "y": [1]}, {}],
])
def test_known_bug_conditions_with_y_in_only_some_entries_misaligned(conditions):
    net, data = conv_net(), images()
    result = CondAttribution(net)(data, conditions, EpsilonPlusFlat(), names_of(net), init_rel=1)
    assert_rows(result, net, data.expand(3, -1, -1, -1), conditions, init=torch.ones(1, 3).double())


@pytest.mark.parametrize("samples, count", [(2, 3), (3, 2), (2, 1), (3, 5)])
def test_cross_product_is_sample_by_sample(samples, count):
    net, data = conv_net(), images(samples)
    conditions = mixed_conditions()[:count]
    result = CondAttribution(net)(data, conditions, EpsilonPlusFlat(), ["conv1", "fc1"])
    assert_rows(result, net, data.repeat_interleave(count, 0), conditions * samples)


@settings(deadline=None, max_examples=25)
@given(st.lists(condition_strategy, min_size=1, max_size=4), st.integers(1, 3), st.booleans())
def test_any_conditions_and_samples_equal_the_rules_by_hand(conditions, samples, exclude_parallel):
    conditions = [
        {layer: condition[layer] for layer in ("fc1", "conv2", "conv1", "y") if layer in condition}
        for condition in conditions
    ]
    net, data = conv_net(), images(samples)
    result = CondAttribution(net)(
        data, conditions, EpsilonPlusFlat(), ["conv1", "conv2", "fc1"], exclude_parallel=exclude_parallel
    )
    if samples == len(conditions):
        assert_rows(result, net, data, conditions)
    else:
        assert_rows(result, net, data.repeat_interleave(len(conditions), 0), conditions * samples)


def test_generate_leaves_the_gradient_of_the_data_alone():
    data = images().requires_grad_()
    data.grad = torch.full_like(data, 7.)
    list(CondAttribution(conv_net()).generate(data, mixed_conditions(), EpsilonPlusFlat(), verbose=False))
    assert data.requires_grad and (data.grad == 7).all()


def test_conditions_may_come_from_an_iterator_and_stay_as_they_are():
    attribution, data, conditions = CondAttribution(conv_net()), images(2), mixed_conditions()
    expected = attribution(data, conditions, EpsilonPlusFlat())
    assert conditions == mixed_conditions()
    assert_same_results([attribution(data, tuple(conditions), EpsilonPlusFlat())], expected)
    assert_same_results([attribution(data, iter(conditions), EpsilonPlusFlat())], expected)


def test_exclude_parallel_names_layers_that_are_not_on_one_path():
    class TwoBranches(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.left(x) + self.right(x)

    attribution = CondAttribution(TwoBranches().eval())
    conditions = [{"right": [0], "left": [0], "y": [0]}]
    with pytest.raises(ValueError, match="no relevance reaches 'left'.*exclude_parallel"):
        attribution(torch.ones(1, 3), conditions)
    assert attribution(torch.ones(1, 3), conditions, exclude_parallel=False, init_rel=1).heatmap.any()


def test_conditions_changed_while_generating_do_not_matter():
    net, data = conv_net(), images()[:1]
    conditions = [{"conv1": [i], "y": [0]} for i in range(3)]
    expected = CondAttribution(net)(data, conditions).heatmap
    results = CondAttribution(net).generate(data, conditions, batch_size=1, verbose=False)
    first = next(results).heatmap
    conditions[2]["conv1"][0] = 0
    close(torch.cat([first, *(result.heatmap for result in results)]), expected)


@pytest.mark.parametrize("arguments, error, message", [
    ({"composite": EpsilonPlusFlat}, TypeError, r"EpsilonPlusFlat\(\)"),
    ({"mask_map": ChannelConcept}, TypeError, r"ChannelConcept\(\)"),
])
def test_classes_in_place_of_instances_are_refused_by_name(arguments, error, message):
    with pytest.raises(error, match=message):
        CondAttribution(conv_net())(images(), [{"conv1": [0], "y": [0]}], **arguments)
    with pytest.raises(TypeError, match="targets are integers"):
        CondAttribution(conv_net())(images(), [{"y": None}])


def test_conditions_changed_between_rounds_do_not_matter():
    net, data = conv_net(), images()[:1]
    attribution = CondAttribution(net)
    rounds = [[{"conv1": [i], "y": [0]}] for i in range(3)]
    expected = attribution(data, [row[0] for row in rounds]).heatmap
    results = attribution.attribute_rounds(data, rounds)
    first = next(results).heatmap
    rounds[2][0]["conv1"][0] = 0
    close(torch.cat([first, *(result.heatmap for result in results)]), expected)


@pytest.mark.parametrize("ids", [
    torch.tensor([True, False, True]), np.array([False, True, False]), [True, False, True], [np.True_, np.False_, True],
    torch.zeros(3, dtype=torch.bool), slice(0, 2), slice(None, None, 2), slice(-1, None), np.array([2, 0]),
    torch.tensor([[0, 1]]), [np.array([1])], [torch.tensor([2, 0])], [np.int64(1)], [torch.tensor([True, False, True])],
    range(2), 1, [-1],
], ids=str)
def test_targets_mean_what_they_mean_in_indexing(ids):
    output = torch.tensor([[1., 2., 3.], [4., 5., 6.]])
    expected = torch.zeros_like(output)
    for row in range(2):
        expected[row][ids] = output[row][ids]
    attribution = CondAttribution(nn.Flatten().eval(), heatmap_axis=None)
    torch.testing.assert_close(attribution(output, [{"y": ids}] * 2).heatmap, expected)
    generated, = attribution.generate(output[:1], [{"y": ids}], verbose=False)
    torch.testing.assert_close(generated.heatmap, expected[:1])


def test_a_mask_of_outputs_with_several_axes():
    output, mask = torch.rand(1, 2, 3), torch.tensor([[True, False, False], [False, True, True]])
    attribution = CondAttribution(nn.Identity().eval(), heatmap_axis=None)
    torch.testing.assert_close(attribution(output, [{"y": mask}]).heatmap[0], output[0].where(mask, 0))
    rows = torch.tensor([False, True])
    torch.testing.assert_close(attribution(output, [{"y": rows}]).heatmap[0], output[0].where(rows[:, None], 0))


@pytest.mark.parametrize("ids, error, message", [
    (torch.tensor([True, False]), IndexError, r"a mask of outputs has their shape \(3,\), not \(2,\)"),
    (np.ones((1, 3), bool), IndexError, r"not \(1, 3\)"), (True, IndexError, "a mask"), ([True], IndexError, "a mask"),
    ([True, 2], TypeError, "not True"), ([np.True_, 2], TypeError, "not np.True_"), ([(True,)], TypeError, "a target"),
    ([slice(0, 2)], TypeError, "not slice"), (torch.tensor([1.]), TypeError, "not 1.0"),
    ([None], TypeError, "not None"), (slice(0, 4, 0), ValueError, "step"),
])
def test_other_targets_are_refused_in_words(ids, error, message):
    with pytest.raises(error, match=message):
        CondAttribution(nn.Flatten().eval())(torch.rand(1, 3), [{"y": ids}])


@pytest.mark.parametrize("ids", [
    torch.tensor([True, False, True]), np.array([True, False, True]), [True, False, True], [np.True_, 2], slice(0, 2),
    [torch.tensor(True), 2], True,
], ids=str)
def test_masks_and_slices_of_concepts_are_refused_in_words(ids):
    with pytest.raises(TypeError, match="concept ids are integers"):
        CondAttribution(conv_net())(images(), [{"conv1": ids, "y": [0]}])


def test_ids_of_concepts_may_be_arrays_of_one_element():
    net, data = conv_net(), images()
    expected = CondAttribution(net)(data, [{"conv1": [1], "y": [0]}]).heatmap
    for ids in ([np.array([1])], [torch.tensor([1])], (torch.tensor(1),), np.array([1])):
        close(CondAttribution(net)(data, [{"conv1": ids, "y": [0]}]).heatmap, expected)
