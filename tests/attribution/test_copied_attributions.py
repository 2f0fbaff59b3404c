"""Attributions can be copied and pickled; what is on the model for a while is never copied."""
import copy
import pickle

import pytest
from networks_by_hand import close, conv_net, images
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution


def pickled(value):
    return pickle.loads(pickle.dumps(value))


def heatmap(attribution, composite=None):
    return attribution(images(), [{"conv1": [0], "y": [0]}], composite or EpsilonPlusFlat()).heatmap


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
def test_copies_attribute_as_the_original_does(copied, model_state):
    attribution = CondAttribution(conv_net(), heatmap_axis=(1, 2), samples={"conv1": 0})
    composite = EpsilonPlusFlat()
    expected = heatmap(attribution, composite)
    other = copied(attribution)
    close(heatmap(other), expected)
    assert (other.model is attribution.model) == (copied is copy.copy)
    assert (other.heatmap_axis, other.samples) == ((1, 2), {"conv1": 0})
    before = model_state(attribution.model)
    with other.attached(EpsilonPlusFlat(), images()):
        if copied is copy.copy:
            with pytest.raises(ValueError, match="still registered"):
                heatmap(attribution, composite)
        else:
            assert model_state(attribution.model) == before
            close(heatmap(attribution, composite), expected)
    assert model_state(attribution.model) == before


def test_copies_know_that_a_model_writes_in_place():
    attribution = CondAttribution(conv_net(inplace=True))
    expected = heatmap(attribution)
    for other in (copy.deepcopy(attribution), pickled(attribution)):
        assert other._rules.writes_to_inputs == attribution._rules.writes_to_inputs
        close(heatmap(other), expected)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
def test_nothing_is_copied_while_rules_are_on_the_model(copied):
    attribution = CondAttribution(conv_net())
    results = attribution.generate(images(), [{"conv1": [i], "y": [0]} for i in range(3)], EpsilonPlusFlat(),
                                   batch_size=1, verbose=False)
    next(results)
    with pytest.raises(RuntimeError, match="rules are on the model"):
        copied(attribution)
    results.close()
    with attribution.attached(EpsilonPlusFlat(), images()), pytest.raises(RuntimeError, match="rules are on the model"):
        copied(attribution)
    copied(attribution)
