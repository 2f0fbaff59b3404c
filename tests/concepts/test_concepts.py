"""Concepts: masking, reading and ranking channels on any axis."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept, Concept, Reading, as_layer_map
from crp.model.callbacks import call_as_taken


def mask_by_loops(relevance, batch_id, kept, axis):
    """Zero every entry of one sample, unless its channel (and flat position) is kept."""
    result = relevance.clone()
    axis = axis % relevance.ndim
    for index in np.ndindex(*relevance.shape[1:]):
        channel = index[axis - 1]
        rest = [i for i in range(1, relevance.ndim) if i != axis]
        position = 0
        for i in rest:
            position = position * relevance.shape[i] + index[i - 1]
        if channel not in kept or (kept[channel] is not None and position not in kept[channel]):
            result[(batch_id, *index)] = 0
    return result


@st.composite
def tensors_with_axis(draw, integers=False):
    """A tensor of 2 to 5 axes and the axis of its channels."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=5, min_side=1, max_side=4))
    values = st.integers(-3, 3) if integers else st.integers(-40, 40)
    array = draw(hnp.arrays(np.int64, shape, elements=values))
    axis = draw(st.sampled_from([i for i in range(-len(shape) + 1, len(shape)) if i != 0]))
    return torch.from_numpy(array).double(), axis


@settings(deadline=None, max_examples=40)
@given(tensors_with_axis(), st.data())
def test_mask_keeps_only_the_channels_of_one_sample(tensor_axis, data):
    relevance, axis = tensor_axis
    channels = relevance.shape[axis]
    ids = data.draw(st.lists(st.integers(0, channels - 1), max_size=channels))
    batch_id = data.draw(st.integers(0, len(relevance) - 1))
    expected = mask_by_loops(relevance, batch_id, dict.fromkeys(ids), axis)
    assert torch.equal(ChannelConcept(axis).mask(batch_id, ids, "layer")(relevance.clone()), expected)
    if axis % relevance.ndim == 1:
        assert torch.equal(ChannelConcept.mask(batch_id, ids, "layer")(relevance.clone()), expected)


@settings(deadline=None, max_examples=40)
@given(tensors_with_axis(), st.data())
def test_mask_rf_keeps_single_neurons_of_channels(tensor_axis, data):
    relevance, axis = tensor_axis
    channels, positions = relevance.shape[axis], relevance[0].numel() // relevance.shape[axis]
    neurons = data.draw(st.dictionaries(
        st.integers(0, channels - 1), st.lists(st.integers(0, positions - 1), min_size=1, max_size=3), max_size=3
    ))
    batch_id = data.draw(st.integers(0, len(relevance) - 1))
    expected = mask_by_loops(relevance, batch_id, neurons, axis)
    assert torch.equal(ChannelConcept(axis).mask_rf(batch_id, neurons, "layer")(relevance.clone()), expected)
    if axis % relevance.ndim == 1:
        assert torch.equal(ChannelConcept.mask_rf(batch_id, neurons)(relevance.clone()), expected)


def test_mask_on_the_class_uses_axis_1_and_on_an_instance_its_axis():
    relevance = torch.ones(1, 2, 3)
    assert ChannelConcept.mask(0, [1])(relevance.clone())[0].tolist() == [[0, 0, 0], [1, 1, 1]]
    assert ChannelConcept().mask(0, [1])(relevance.clone())[0].tolist() == [[0, 0, 0], [1, 1, 1]]
    assert ChannelConcept(-1).mask(0, [1])(relevance.clone())[0].tolist() == [[0, 1, 0], [0, 1, 0]]
    assert ChannelConcept(axis=2).mask(0, [1])(relevance.clone())[0].tolist() == [[0, 1, 0], [0, 1, 0]]


def test_a_subclass_with_another_axis_masks_on_it():
    class Last(ChannelConcept):
        axis = -1

    assert Last.mask(0, [0])(torch.ones(1, 2, 2))[0].tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize("ids", [1, np.int64(1), [1], (1,), {1}, range(1, 2), np.array([1]), torch.tensor([1])])
def test_ids_in_all_forms(ids):
    assert ChannelConcept.mask(0, ids)(torch.ones(1, 3)).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("neurons", [
    {1: [0, 2]}, {1: np.array([0, 2])}, {torch.tensor(1): torch.tensor([0, 2])}, {np.int64(1): (0, 2)},
])
def test_neurons_in_all_forms(neurons):
    assert ChannelConcept.mask_rf(0, neurons)(torch.ones(1, 2, 3))[0].tolist() == [[0, 0, 0], [1, 0, 1]]
    assert ChannelConcept.mask_rf(0, {1: 2})(torch.ones(1, 2, 3))[0].tolist() == [[0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("ids", [[0.5], ["a"], [[0, 1]], [True, False]])
def test_ids_that_are_no_integers_are_refused(ids):
    with pytest.raises(TypeError, match="integers"):
        ChannelConcept.mask(0, ids)


@pytest.mark.parametrize("mask, message", [
    (ChannelConcept.mask(0, [3], "conv"), "3 .*'conv'.* 0 to 2"),
    (ChannelConcept.mask(0, [-4]), "-4 .* 0 to 2"),
    (ChannelConcept(-1).mask(0, [5], "conv"), "5 .*'conv'.* 0 to 4"),
    (ChannelConcept.mask_rf(0, {0: [5]}, "conv"), "5 .*'conv'.* 0 to 4"),
    (ChannelConcept.mask_rf(0, {3: [0]}, "conv"), "3 .*'conv'.* 0 to 2"),
])
def test_ids_out_of_range_name_the_range(mask, message):
    with pytest.raises(IndexError, match=message):
        mask(torch.ones(2, 3, 5))


@pytest.mark.parametrize("axis, error", [(0, ValueError), (1.0, TypeError), (True, TypeError), (None, TypeError)])
def test_axis_is_an_integer_and_not_the_batch(axis, error):
    with pytest.raises(error, match="axis"):
        ChannelConcept(axis)


@pytest.mark.parametrize("axis", [3, -3])
def test_axis_that_a_tensor_does_not_have(axis):
    with pytest.raises(ValueError, match=f"axis {axis}"):
        ChannelConcept(axis).attribute(torch.ones(2, 3, 4))
    with pytest.raises(ValueError, match=f"axis {axis}"):
        ChannelConcept(axis).mask(0, [0])(torch.ones(2, 3, 4))


def value_by_loops(tensor, axis, max_target):
    """Value and strongest position per sample and channel, written with Python's lists."""
    samples, channels = len(tensor), tensor.shape[axis]
    value, position = torch.zeros(samples, channels).double(), torch.zeros(samples, channels).long()
    for b in range(samples):
        for c in range(channels):
            entries = tensor.select(axis, c)[b].flatten().tolist()
            value[b, c] = sum(entries) if max_target == "sum" else max(entries)
            position[b, c] = entries.index(max(entries))
    return value, position


def ranking_by_loops(tensor, axis, max_target, abs_norm):
    value, position = value_by_loops(tensor, axis, max_target)
    if abs_norm:
        for b in range(len(value)):
            total = sum(abs(v) for v in value[b].tolist())
            value[b] = value[b] / total if total else value[b]
    order = torch.zeros_like(position)
    for c in range(value.shape[1]):
        order[:, c] = torch.tensor(sorted(range(len(value)), key=lambda b: (-value[b, c].item(), b)))
    return order, torch.gather(value, 0, order), torch.gather(position, 0, order)


@settings(deadline=None, max_examples=60)
@given(tensors_with_axis(integers=True), st.sampled_from(["sum", "max"]), st.booleans())
def test_reference_sampling_equals_a_slow_restatement_ties_included(tensor_axis, max_target, abs_norm):
    tensor, axis = tensor_axis
    order, value, position = ChannelConcept(axis).reference_sampling(tensor, "layer", max_target, abs_norm)
    expected = ranking_by_loops(tensor, axis, max_target, abs_norm)
    assert torch.equal(order, expected[0])
    torch.testing.assert_close(value, expected[1])
    assert torch.equal(position, expected[2])


def test_on_ties_the_lower_row_and_the_first_position_win():
    order, value, position = ChannelConcept().reference_sampling(torch.ones(300, 2, 3), abs_norm=False)
    assert order.T.tolist() == [list(range(300))] * 2 and not position.any() and (value == 3).all()


@pytest.mark.parametrize("shape, axis", [
    ((2, 3, 56, 56), 1), ((2, 40, 40, 3), -1), ((2, 2, 1031), 1), ((1, 2, 8, 16, 16), 1), ((2, 3, 1024), 1),
])
@pytest.mark.parametrize("max_target", ["sum", "max"])
def test_many_positions(shape, axis, max_target):
    few_values = torch.randint(-4, 5, shape).double()  # so that the largest occurs often
    for tensor in (few_values, torch.randn(shape, dtype=torch.float64), -few_values.abs() - 1):
        value, position = ChannelConcept(axis).read(tensor, "layer", max_target)
        expected_value, expected_position = value_by_loops(tensor, axis, max_target)
        torch.testing.assert_close(value, expected_value)
        assert torch.equal(position, expected_position)


def test_reference_sampling_refuses_other_targets():
    with pytest.raises(ValueError, match="'sum' or 'max'"):
        ChannelConcept().reference_sampling(torch.ones(1, 1), max_target="mean")


@settings(deadline=None, max_examples=40)
@given(tensors_with_axis(), st.booleans(), st.booleans())
def test_attribute_sums_positions(tensor_axis, abs_norm, use_mask):
    tensor, axis = tensor_axis
    mask = (tensor > 0).double() if use_mask else None
    value, _ = value_by_loops(tensor if mask is None else tensor * mask, axis, "sum")
    if abs_norm:
        value = value / value.abs().sum(1, keepdim=True).clamp(min=1e-300)
    result = ChannelConcept(axis).attribute(tensor, mask, "layer", abs_norm)
    torch.testing.assert_close(result, value)


def test_attribute_gives_shares_by_default():
    relevance = torch.tensor([[[1., 2.], [-1., 0.]], [[0., 0.], [0., 0.]]])
    assert ChannelConcept().attribute(relevance).tolist() == [[0.75, -0.25], [0., 0.]]
    region = torch.tensor([1., 0.])
    assert ChannelConcept().attribute(relevance, region, abs_norm=False).tolist() == [[1., -1.], [0., 0.]]


@pytest.mark.parametrize("tiny", [1e-30, 1e-38, 1e-42])
def test_attribute_of_tiny_relevance_is_finite(tiny):
    share = ChannelConcept().attribute(torch.tensor([[tiny, -tiny]]))
    assert torch.isfinite(share).all() and (share.abs() <= 1).all()


@pytest.mark.parametrize("axis, shape, positions", [
    (1, (4, 3, 2), (3, 2)), (-1, (7, 5), (7,)), (1, (6,), ()), (2, (3, 4, 5), (3, 5)),
])
def test_rf_indices_and_shape_of_positions(axis, shape, positions):
    concept = ChannelConcept(axis)
    assert concept.position_shape(shape) == positions
    assert list(concept.get_rf_indices(shape, "layer")) == list(range(int(np.prod(positions, dtype=int))))


class Pairs(ChannelConcept):
    """Users' way: static methods. Concept i is made of the channels 2 i and 2 i + 1."""

    @staticmethod
    def mask(batch_id, concept_ids, layer_name=None):
        channels = [channel for i in concept_ids for channel in (2 * i, 2 * i + 1)]

        def mask_fn(relevance):
            kept = torch.zeros_like(relevance[batch_id])
            kept[channels] = relevance[batch_id][channels]
            relevance[batch_id] = kept
            return relevance

        return mask_fn

    @staticmethod
    def mask_rf(batch_id, neurons, layer_name=None):
        return lambda relevance: relevance * 0


@pytest.mark.parametrize("mask_map", [Pairs.mask, Pairs().mask, Pairs(), {"0": Pairs()}])
def test_static_methods_in_a_subclass_are_honoured(mask_map):
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    data = torch.rand(1, 3)
    attribution = CondAttribution(net, heatmap_axis=None)
    pair = attribution(data, [{"0": [1], "y": [0]}], mask_map=mask_map).heatmap
    channels = attribution(data, [{"0": [2, 3], "y": [0]}]).heatmap
    assert torch.equal(pair, channels) and pair.any()
    assert not Pairs().mask_rf(0, {0: [0]})(torch.ones(1, 4)).any()


class Loudest(ChannelConcept):
    """Overrides only the ranking: a sample's value is the range of the channel."""

    def reference_sampling(self, relevance, layer_name=None, max_target="sum", abs_norm=True):
        flat = relevance.flatten(2)
        value = flat.amax(2) - flat.amin(2)
        position = flat.argmin(2)
        order = torch.argsort(value, dim=0, descending=True)
        return order, torch.gather(value, 0, order), torch.gather(position, 0, order)


class LoudestOfAnyKind(Concept):
    reference_sampling = Loudest.reference_sampling


@settings(deadline=None, max_examples=25)
@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=3, max_dims=4, max_side=5), elements=st.floats(-9, 9)))
@pytest.mark.parametrize("concept", [Loudest(), LoudestOfAnyKind()])
def test_an_overridden_reference_sampling_is_read_by_undoing_its_sorting(concept, array):
    tensor = torch.from_numpy(array)
    flat = tensor.flatten(2)
    value, position = concept.read(tensor, "layer")
    assert torch.equal(value, flat.amax(2) - flat.amin(2))
    assert torch.equal(position, flat.argmin(2))
    assert torch.equal(concept.attribute(tensor, abs_norm=False), value)


def test_a_concept_that_defines_nothing_says_what_is_missing():
    concept = Concept()
    for method, arguments in [
        ("mask", (0, [0])), ("mask_rf", (0, {})), ("get_rf_indices", ((1,),)), ("read", (torch.ones(1, 1),)),
    ]:
        with pytest.raises(TypeError, match=f"Concept does not define '{method}'"):
            getattr(concept, method)(*arguments)


def test_one_sample_without_its_batch_axis():
    relevance = torch.tensor([1., -2., 1.])
    mask = torch.tensor([1., 1., 0.])
    assert ChannelConcept().attribute(relevance).tolist() == [[0.25, -0.5, 0.25]]
    assert ChannelConcept().attribute(relevance, abs_norm=False).tolist() == [1., -2., 1.]
    assert ChannelConcept().attribute(relevance, mask, abs_norm=False).tolist() == [1., -2., 0.]


class Louder(ChannelConcept):
    """Lets the base class sort what it gives it."""

    def reference_sampling(self, relevance, layer_name=None, max_target="sum", abs_norm=True):
        return super().reference_sampling(relevance.abs(), layer_name, max_target, abs_norm)


class Shares(ChannelConcept):
    def read(self, tensor, layer_name=None, max_target="sum"):
        value, position = super().read(tensor, layer_name, max_target)
        return Reading(value.abs(), position)


@pytest.mark.parametrize("concept", [Louder(), Shares()])
def test_a_subclass_may_call_the_method_that_it_overrides(concept):
    tensor = torch.randn(4, 3)  # of single positions, where both come to the same
    order, value, _ = concept.reference_sampling(tensor, "layer", "sum", False)
    expected = tensor.abs().sort(dim=0, descending=True, stable=True)
    assert torch.equal(order, expected.indices) and torch.equal(value, expected.values)
    assert torch.equal(concept.read(tensor, "layer").value, tensor.abs())


@pytest.mark.parametrize("attribute", [
    lambda relevance, abs_norm=True: (None, None, abs_norm),
    lambda relevance, abs_norm=True, one=1, two=2: (None, None, abs_norm),
    lambda relevance, *, layer_name, abs_norm: (None, layer_name, abs_norm),
    lambda relevance, mask=None, layer_name=None, abs_norm=True: (mask, layer_name, abs_norm),
    lambda r, m, name, norm: (m, name, norm),
    lambda relevance, **options: tuple(options.values()),
    lambda *args: args[1:],
    lambda relevance, layer_name: (None, layer_name, False),
    lambda relevance: (None, None, False),
])
def test_functions_of_users_are_given_what_they_take(attribute):
    mask, layer, norm = call_as_taken(attribute, "relevance", mask=None, layer_name="conv", abs_norm=False)
    assert mask is None and layer in (None, "conv") and norm is False


@pytest.mark.parametrize("given", [["c1", "c2"], ("c1", "c2"), {"c1": None, "c2": None}.keys()])
def test_a_layer_map_of_names(given):
    found = as_layer_map(given)
    assert list(found) == ["c1", "c2"] and all(type(concept) is ChannelConcept for concept in found.values())


@pytest.mark.parametrize("given, message", [
    ("c1", "layer_map maps layers to concepts"), (["c1", ("c2", ChannelConcept())], "maps layers to concepts.*names"),
    (3, "layer_map maps"), ([("c1", ChannelConcept(), 2)], "layer_map maps"), (None, "layer_map maps"),
    ({3: ChannelConcept()}, "not the name of a layer"), ([("c1", "c2")], r"layer_map\['c1'\] is 'c2', not a Concept"),
    ({"c1": ChannelConcept}, r"did you mean ChannelConcept\(\)"),
])
def test_other_layer_maps_are_refused_in_words(given, message):
    with pytest.raises(TypeError, match=message):
        as_layer_map(given)
