"""Values that are made of known directions."""
import numpy as np
import pytest

from crp.concepts import DirectionConcept
from crp.truth import TruthError, recovery, sparse_features


@pytest.mark.parametrize("positive", [True, False])
def test_values_are_codes_times_directions(positive):
    data = sparse_features(500, 12, 20, noise=0., positive=positive)
    np.testing.assert_allclose(data.values, data.codes @ data.directions, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(data.directions, axis=1), 1)
    assert (data.codes > 0).sum(1).mean() == pytest.approx(3, abs=.2) and data.holds
    assert (data.values.min() >= 0) == positive
    solved = np.linalg.lstsq(data.directions.T, data.values.T, rcond=None)[0].T
    np.testing.assert_allclose(solved, data.codes, atol=1e-8)  # so that there is a truth to be found


def test_labels_of_a_feature_find_its_direction_and_random_ones_do_not():
    data = sparse_features(1000, 8, 32)
    found = np.concatenate([
        DirectionConcept.fit(data.values, labels=code > 0, method="mean_difference").basis.numpy()
        for code in data.codes.T
    ])
    assert data.recovery(found) == recovery(found, data.directions) > .9
    assert recovery(np.random.default_rng(0).normal(size=(8, 32)), data.directions) < .6


def test_noise_that_hides_the_features_is_told():
    data = sparse_features(noise=2.)
    assert not data.holds
    with pytest.raises(TruthError, match="variance explained"):
        data.recovery(data.directions)
    with pytest.raises(ValueError, match="active is above 0"):
        sparse_features(features=2, active=3)
