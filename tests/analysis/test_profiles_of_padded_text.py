"""Profiles and responses that are made from a model are means over the tokens that are no padding."""
import numpy as np
import pytest
import torch
from padded_text import SENTENCES, Reader, item
from small_sweeps import Items
from zennit.composites import EpsilonPlus

from crp.analysis import ResponseMap, group_profiles
from crp.analysis.layer_responses import layer_responses
from crp.attribution import CondAttribution
from crp.visualization import WithoutTokens

pytestmark = pytest.mark.usefixtures("quick")
LENGTH, GROUPS = 12, [i % 2 for i in range(len(SENTENCES))]
LEFT = pytest.mark.parametrize("left", [False, True], ids=["right", "left"])


def alone(tokens, layer="inner", quantity="activation"):
    """[positions, channels] of a sentence without any padding."""
    ids = torch.tensor([tokens])
    data = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    attribution = CondAttribution(Reader().eval())
    target = int(attribution.model(**data).argmax())
    result = attribution(data, [{"y": [target]}], EpsilonPlus(), [layer])
    return (result.activations if quantity == "activation" else result.relevances)[layer][0].detach().numpy()


def profiles(left, **options):
    dataset = Items([item(tokens, LENGTH, left) for tokens in SENTENCES])
    return group_profiles(
        (Reader().eval(), dataset), GROUPS, layers=["inner"], axis=-1, batch_size=4, composite=EpsilonPlus(), **options
    )["inner"]


def of_group(rows, group):
    return [row for row, of in zip(rows, GROUPS) if of == group]


@LEFT
@pytest.mark.parametrize("quantity", ["activation", "relevance"])
def test_mean_profiles_are_those_of_sentences_without_padding(left, quantity):
    rows = [alone(tokens, quantity=quantity).mean(0) for tokens in SENTENCES]
    expected = [np.mean(of_group(rows, group), 0) for group in (0, 1)]
    np.testing.assert_allclose(profiles(left, quantity=quantity, positions=False), expected, atol=1e-6)


@LEFT
def test_each_position_is_the_mean_over_sentences_that_reach_it(left):
    width = alone(SENTENCES[0]).shape[1]
    expected = np.zeros((2, width, LENGTH))
    for group in (0, 1):
        for place in range(LENGTH):
            found = [
                row[place - LENGTH if left else place] for row in of_group(list(map(alone, SENTENCES)), group)
                if (LENGTH - place if left else place + 1) <= len(row)
            ]
            expected[group, :, place] = np.mean(found, 0) if found else 0
    np.testing.assert_allclose(profiles(left), expected, atol=1e-6)


@LEFT
def test_aligned_profiles_hold_no_padding(left):
    longest = max(SENTENCES, key=len)
    kept = profiles(left, align="gradient")
    half = LENGTH // 2
    outside = [place for place in range(LENGTH) if abs(place - half) >= len(longest)]
    assert outside and not kept[:, :, outside].any()
    assert kept.any()


@LEFT
def test_responses_are_means_over_tokens(left):
    rows = [item(tokens, LENGTH, left) for tokens in SENTENCES]
    batch = {key: torch.stack([row[key] for row in rows]) for key in ("input_ids", "attention_mask")}
    model = Reader().eval()
    found = layer_responses(model, batch, ["inner", "pooled"], axis=-1, batch_size=4)
    for layer in found:
        expected = [np.atleast_2d(alone(tokens, layer)).mean(0) for tokens in SENTENCES]
        np.testing.assert_allclose(found[layer], expected, atol=1e-6)
    response_map = ResponseMap(axis=-1).fit(model, batch, ["inner", "pooled"])
    of_values = ResponseMap(axis=-1).fit_values(found)
    np.testing.assert_allclose(response_map.responses(batch), of_values.responses(found), atol=1e-5)


def test_which_tokens_count_is_a_choice():
    rows = [item([2, *tokens, 2], LENGTH, False) for tokens in SENTENCES]
    batch = {key: torch.stack([row[key] for row in rows]) for key in ("input_ids", "attention_mask")}
    found = layer_responses(Reader().eval(), batch, ["inner"], axis=-1, position_mask=WithoutTokens([2]))["inner"]
    expected = [alone([2, *tokens, 2])[1:-1].mean(0) for tokens in SENTENCES]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    everywhere = layer_responses(Reader().eval(), batch, ["inner"], axis=-1, position_mask=None)["inner"]
    assert not np.allclose(everywhere, found, atol=.01)
