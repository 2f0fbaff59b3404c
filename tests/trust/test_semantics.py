"""Clarity, redundancy and polysemanticity as SemanticLens defines them: restated sample by sample, in float64."""
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from crp.trust import clarity, polysemanticity, redundancy


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def embeddings(seed=0, concepts=6, references=9, dimensions=5):
    random = np.random.default_rng(seed)
    found = random.normal(size=(concepts, references, dimensions)) + random.normal(size=(concepts, 1, dimensions))
    found[1, 1:] = found[1, 1] + .01 * random.normal(size=(references - 1, dimensions))  # but for one
    found[1, 0] = -found[1, 1]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_clarity_is_the_mean_cosine_of_two_references(seed):
    values = embeddings(seed)
    pairs = [(i, j) for i in range(9) for j in range(9) if i != j]
    expected = [np.mean([cosine(own[i], own[j]) for i, j in pairs]) for own in values]
    np.testing.assert_allclose(clarity(values), expected, atol=1e-12)
    np.testing.assert_allclose(clarity(torch.from_numpy(values).float()), expected, atol=1e-5)
    # the other way to write it: the squared length of the mean of unit vectors, freed of its bias
    units = values / np.linalg.norm(values, axis=2, keepdims=True)
    np.testing.assert_allclose(((units.mean(1) ** 2).sum(1) - 1 / 9) / (1 - 1 / 9), expected, atol=1e-12)


def test_redundancy_is_the_cosine_of_the_nearest_mean():
    values = embeddings()
    means = values.mean(1)
    expected = [max(cosine(means[i], means[j]) for j in range(6) if j != i) for i in range(6)]
    np.testing.assert_allclose(redundancy(values), expected, atol=1e-12)
    assert np.isnan(redundancy(values[:1])).all()


def test_polysemanticity_is_one_minus_the_cosine_of_two_centres():
    values = embeddings()
    expected = []
    for own in values:
        groups = KMeans(2, n_init=10, random_state=123).fit(own)
        if min(np.bincount(groups.labels_)) < 2:
            expected.append(1 - np.mean([cosine(own.mean(0), own[i]) for i in range(min(10, len(own)))]))
        else:
            expected.append(1 - cosine(*groups.cluster_centers_))
    assert min(np.bincount(KMeans(2, n_init=10, random_state=123).fit(values[1]).labels_)) == 1  # both cases are there
    np.testing.assert_allclose(polysemanticity(values), expected, atol=1e-9)


def test_a_concept_with_two_meanings_is_told_from_one_with_one():
    random = np.random.default_rng(0)
    one, two = np.eye(8)[:2]
    pure = one + .05 * random.normal(size=(10, 8))
    mixed = np.concatenate([pure[:5], two + .05 * random.normal(size=(5, 8))])
    found = np.stack([pure, mixed])
    assert clarity(found)[0] > .9 > .6 > clarity(found)[1]
    assert polysemanticity(found)[1] > .8 > .2 > polysemanticity(found)[0]


def test_references_that_are_all_the_same_are_of_one_meaning(recwarn):
    same = np.ones((1, 6, 3))
    assert clarity(same)[0] == pytest.approx(1) and polysemanticity(same)[0] == pytest.approx(0)
    assert not recwarn.list


@pytest.mark.parametrize("function", [clarity, redundancy, polysemanticity])
def test_what_are_no_embeddings_of_references_is_refused(function):
    with pytest.raises(ValueError, match="two references at least"):
        function(np.ones((3, 1, 4)))
    with pytest.raises(ValueError, match="finite"):
        function(np.full((3, 2, 4), np.nan))
