"""Parts that ``generate`` gives, against one call."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks_by_hand import (
    CONCEPT,
    BatchNormNet,
    assert_same_results,
    canonized,
    condition_strategy,
    conv_net,
    images,
    keep_channels,
    mixed_conditions,
    names_of,
)
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution


@pytest.mark.parametrize("exclude_parallel", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5, 10])
def test_generate_equals_call_for_any_batch_size(batch_size, exclude_parallel):
    net, data, attribution = conv_net(), images(), CondAttribution(conv_net())
    conditions = mixed_conditions()
    arguments = dict(composite=EpsilonPlusFlat(), record_layer=names_of(net), exclude_parallel=exclude_parallel)
    parts = list(attribution.generate(data, conditions, batch_size=batch_size, verbose=False, **arguments))
    assert [len(part.heatmap) for part in parts] == [
        min(batch_size, len(conditions) - first) for first in range(0, len(conditions), batch_size)
    ]
    assert_same_results(parts, attribution(data, conditions, **arguments))


@settings(deadline=None, max_examples=15)
@given(st.lists(condition_strategy, min_size=1, max_size=5), st.integers(1, 6))
def test_generate_equals_call_for_any_conditions(conditions, batch_size):
    attribution, data = CondAttribution(conv_net()), images()
    arguments = dict(composite=EpsilonPlusFlat(), record_layer=["conv1", "fc1"], exclude_parallel=False)
    parts = list(attribution.generate(data, conditions, batch_size=batch_size, verbose=False, **arguments))
    assert_same_results(parts, attribution(data, conditions, **arguments))


@pytest.mark.parametrize("init_rel", [
    1, lambda prediction: prediction ** 2, torch.arange(15.).view(5, 3).double(), torch.tensor([1., 2., 3.]).double(),
], ids=["int", "callable", "row per condition", "one row"])
@pytest.mark.parametrize("batch_size", [2, 5])
def test_generate_with_init_rel_equals_call(init_rel, batch_size):
    attribution, data = CondAttribution(conv_net()), images()
    arguments = dict(composite=EpsilonPlusFlat(), record_layer=["conv2"], init_rel=init_rel)
    parts = list(attribution.generate(data, mixed_conditions(), batch_size=batch_size, verbose=False, **arguments))
    assert_same_results(parts, attribution(data, mixed_conditions(), **arguments))


def test_generate_with_start_layer_and_mask_map_equals_call():
    attribution, data = CondAttribution(conv_net()), images()
    conditions = [{"conv2": [0]}, {"conv2": [1], "conv1": [0]}, {"conv1": [2]}]
    arguments = dict(
        composite=EpsilonPlusFlat(), record_layer=["conv2", "conv1"], start_layer="conv2",
        mask_map={"conv1": keep_channels, "conv2": CONCEPT},
    )
    parts = list(attribution.generate(data, conditions, batch_size=2, verbose=False, **arguments))
    assert_same_results(parts, attribution(data, conditions, **arguments))


def test_generate_runs_the_model_once():
    net, calls = conv_net(), []
    net.conv1.register_forward_hook(lambda *args: calls.append(1))
    parts = list(CondAttribution(net).generate(
        images(), [{"y": [i % 3]} for i in range(6)], batch_size=2, verbose=False
    ))
    assert len(parts) == 3 and len(calls) == 1


def test_generate_refuses_several_samples_and_empty_batches():
    attribution = CondAttribution(conv_net())
    with pytest.raises(ValueError, match="one sample.* 2"):
        attribution.generate(images(2), [{"y": [0]}])
    with pytest.raises(ValueError, match="batch_size"):
        attribution.generate(images(), [{"y": [0]}], batch_size=0)


@pytest.mark.parametrize("exclude_parallel", [True, False])
def test_attribute_rounds_equals_call(exclude_parallel):
    attribution, data = CondAttribution(conv_net()), images(3)
    a, b, c, d, e = mixed_conditions()
    rounds = [[a, b, c], [None, d, None], [e, None, a]]
    arguments = dict(
        composite=EpsilonPlusFlat(), record_layer=["conv1", "conv2"], exclude_parallel=exclude_parallel
    )
    results = list(attribution.attribute_rounds(data, rounds, **arguments))
    for conditions, result in zip(rounds, results, strict=True):
        rows = [row for row, condition in enumerate(conditions) if condition is not None]
        assert_same_results([result], attribution(data[rows], [conditions[row] for row in rows], **arguments))


def test_a_generate_that_is_never_started_attaches_nothing(model_state):
    net = BatchNormNet().eval()
    before = model_state(net)
    results = CondAttribution(net).generate(images().float(), [{"y": [0]}], canonized(), verbose=False)
    assert model_state(net) == before
    assert next(results).heatmap.any()


@pytest.mark.parametrize("method", ["backward", "relevance_init", "heatmap_modifier", "broadcast"])
def test_nothing_stays_on_the_model_after_an_error_in_an_overridden_method(method, model_state):
    def fail(self, *args, **kwargs):
        raise KeyError("overridden")

    net = BatchNormNet().eval()
    before, composite = model_state(net), canonized()
    attribution = type("Own", (CondAttribution,), {method: fail})(net)
    with pytest.raises(KeyError, match="overridden"):
        attribution(images().float(), [{"conv1": [0], "y": [0]}], composite, ["conv2"])
    assert model_state(net) == before and not composite.handles


def test_a_call_during_generate_is_refused():
    attribution = CondAttribution(conv_net())
    results = attribution.generate(images(), mixed_conditions(), EpsilonPlusFlat(), batch_size=2, verbose=False)
    next(results)
    with pytest.raises(ValueError, match="still registered"):
        attribution(images(), [{"y": [0]}], EpsilonPlusFlat())
    assert sum(len(result.heatmap) for result in results) == 3
