"""Texts whose first token takes most of the relevance."""
import warnings

import pytest
import torch
from torch import nn
from zennit.composites import EpsilonPlus

from crp.attribution import CondAttribution


class BagWithAttention(nn.Module):
    """Adds up words, of which the first in the text counts more."""

    def __init__(self, weight):
        super().__init__()
        self.words, self.out, self.weight = nn.Embedding(9, 4), nn.Linear(4, 2, bias=False), weight
        nn.init.ones_(self.words.weight)

    def forward(self, input_ids, attention_mask=None):
        shown = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        first = shown.cumsum(1) * shown == 1
        weights = shown * torch.where(first, self.weight, 1.)
        return self.out((self.words(input_ids) * weights[..., None]).sum(1))


def told(model, data):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        CondAttribution(model.eval())(data, [{"y": [0]}], EpsilonPlus())
    return [str(warning.message) for warning in found if "first token" in str(warning.message)]


@pytest.mark.parametrize("weight, share", [(1., None), (4., None), (6., 55), (30., 86)])
def test_more_than_half_on_the_first_token_is_told(weight, share):
    found = told(BagWithAttention(weight), torch.randint(0, 9, (3, 6)))
    assert [text.split("holds ")[1].split(" of")[0] for text in found] == ([f"{share}%"] if share else [])
    assert all("Contrast(this, that)" in text for text in found)


def test_hidden_tokens_are_not_the_first_and_short_texts_have_one():
    ids = torch.randint(1, 9, (2, 7))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]])
    assert len(told(BagWithAttention(30.), {"input_ids": ids, "attention_mask": mask})) == 1
    assert not told(BagWithAttention(1.), {"input_ids": ids, "attention_mask": mask})
    assert not told(BagWithAttention(30.), ids[:, :3])


def test_columns_of_a_table_are_no_text():
    class Table(BagWithAttention):
        pass

    assert not told(Table(30.), torch.randint(0, 9, (3, 6)))
