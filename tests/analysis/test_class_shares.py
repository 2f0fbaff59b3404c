"""Shares and clarity are what a slow restatement gives."""
import math

import numpy as np
import pytest

from crp.analysis import ClassShares, class_shares


class Store:
    """Gives mean values of classes."""

    def __init__(self, means):
        self.means = np.asarray(means, float)

    def profile_of_classes(self, layer, quantity):
        classes = np.arange(len(self.means)) * 2
        return classes, np.full(len(classes), 5), self.means


@pytest.mark.parametrize("seed", range(3))
def test_shares_portions_and_clarity(seed):
    means = np.random.default_rng(seed).normal(size=(4, 6))
    found = class_shares(Store(means), "layer")
    for concept in range(6):
        shares = [means[k, concept] / sum(abs(value) for value in means[k]) for k in range(4)]
        portions = [abs(share) / sum(map(abs, shares)) for share in shares]
        entropy = -sum(portion * math.log(portion) for portion in portions)
        assert found.shares[:, concept] == pytest.approx(shares, abs=1e-12)
        assert found.portions[:, concept] == pytest.approx(portions, abs=1e-12)
        assert found.clarity[concept] == pytest.approx(1 - entropy / math.log(4), abs=1e-12)
        assert found.of_all()[concept] == pytest.approx(sum(shares) / 4, abs=1e-12)


def test_clarity_is_zero_for_all_classes_alike_and_one_for_a_single_one():
    found = class_shares(Store([[1, 3, 0], [1, 0, 0], [1, 0, 0]]), "layer")
    of_class = np.array([[1, 3, 0], [1, 0, 0], [1, 0, 0]]) / [[4], [1], [1]]
    assert found.shares == pytest.approx(of_class)
    assert found.clarity[1] == pytest.approx(1) and found.dead.tolist() == [2] and np.isnan(found.clarity[2])
    assert class_shares(Store([[2, 2], [2, 2]]), "layer").clarity == pytest.approx([0, 0])


def test_classes_that_a_concept_serves():
    found = ClassShares(np.array([3, 5, 7, 9]), np.ones(4, int), np.array([[.1, 0], [-.4, 0], [.4, 0], [.1, 0]]))
    classes, portion = found.served(0)
    assert classes.tolist() == [5, 7] and portion == pytest.approx(.8)
    classes, portion = found.served(1)
    assert classes.tolist() == [] and portion == 0
    assert found.of_class(5).tolist() == [-.4, 0]
    with pytest.raises(ValueError, match="no sample of class 4"):
        found.of_class(4)


def test_a_class_that_is_zero_or_not_a_number():
    found = class_shares(Store([[0, 0], [1, 3]]), "layer")
    assert found.shares.tolist() == [[0, 0], [.25, .75]]
    assert np.isnan(class_shares(Store([[np.nan, 1], [1, 3]]), "layer").clarity).all()
