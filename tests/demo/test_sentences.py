"""Sentences about concepts say what the numbers say."""
import numpy as np
import pytest
import torch

from crp.analysis import ClassShares
from crp.demo.sentences import describe, place_of
from crp.pictures.words import in_words


def spots(*places, size=32):
    heatmaps = torch.zeros(len(places), size, size)
    for heatmap, (row, column) in zip(heatmaps, places):
        heatmap[row - 2:row + 3, column - 2:column + 3] = 1
    return heatmaps


@pytest.mark.parametrize("places, words", [
    ([(5, 25), (6, 24)], "upper right"), ([(25, 5)], "lower left"), ([(16, 16)], "in the middle"), ([(16, 4)], "left"),
    ([(5, 15), (4, 16)], "upper"), ([(5, 5), (25, 25)], "at various places"),
])
def test_places(places, words):
    assert place_of(spots(*places)) == words


def test_only_relevance_that_speaks_for_the_concept_says_where_it_is():
    assert place_of(spots((5, 25)) - 9 * spots((25, 5))) == "upper right"
    assert place_of(torch.cat([spots((5, 25)), torch.zeros(9, 32, 32)])) == "upper right"
    assert place_of(torch.zeros(2, 8, 8)) == "nowhere"


def test_a_sentence():
    shares = ClassShares(np.arange(4), np.ones(4, int), np.array([[.1, 0], [.4, 0], [.4, 0], [.1, 0]]))
    assert describe(shares, 0, spots((5, 25))) == "in 1 and 2: 80% of its relevance; upper right"
    assert describe(shares, 1, spots((5, 25))) == "dead"


@pytest.mark.parametrize("items, words", [([], ""), ([4], "4"), ([4, 7], "4 and 7"), ([4, 7, 9], "4, 7 and 9")])
def test_items_in_words(items, words):
    assert in_words(items) == words
