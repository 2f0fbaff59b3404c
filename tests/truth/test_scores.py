"""Scores against restatements of their definitions, element by element."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crp.truth import auroc, mass_accuracy, purity, rank_accuracy, recovery


def heatmaps_and_masks(seed, rows=3, size=6):
    random = np.random.default_rng(seed)
    masks = random.random((rows, size, size)) < .3
    masks[:, 0, 0] = True
    return random.normal(size=(rows, size, size)), masks


@given(seed=st.integers(0, 10 ** 6))
@settings(max_examples=25, deadline=None)
def test_rank_and_mass_accuracy_are_counted_pixel_by_pixel(seed):
    heatmaps, masks = heatmaps_and_masks(seed)
    for i, (heatmap, mask) in enumerate(zip(heatmaps, masks)):
        pixels = sorted(np.ndindex(heatmap.shape), key=lambda place: -heatmap[place])
        strongest = pixels[:mask.sum()]
        assert rank_accuracy(heatmaps, masks)[i] == sum(mask[place] for place in strongest) / mask.sum()
        inside = sum(max(heatmap[place], 0) for place in pixels if mask[place])
        everywhere = sum(max(heatmap[place], 0) for place in pixels)
        assert mass_accuracy(heatmaps, masks)[i] == pytest.approx(inside / everywhere)


def test_a_heatmap_that_is_the_mask_is_right_and_the_opposite_is_wrong():
    _, masks = heatmaps_and_masks(0)
    heatmaps = torch.from_numpy(masks).float()
    assert (rank_accuracy(heatmaps, masks) == 1).all() and (mass_accuracy(heatmaps, masks) == 1).all()
    assert (rank_accuracy(-heatmaps, masks) == 0).all() and (mass_accuracy(-heatmaps, masks) == 0).all()


def test_objects_that_are_nowhere_and_other_shapes_are_refused():
    heatmaps, masks = heatmaps_and_masks(0)
    masks[1] = False
    with pytest.raises(ValueError, match="mask 1 is empty"):
        rank_accuracy(heatmaps, masks)
    with pytest.raises(ValueError, match="same shape"):
        mass_accuracy(heatmaps[:, 1:], masks)


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    scores, truth = torch.tensor([3., 1., 2., 2.]), torch.tensor([True, False, False, True])
    pairs = [(a, b) for a in scores[truth] for b in scores[~truth]]
    assert auroc(scores, truth) == sum(float(a > b) + .5 * float(a == b) for a, b in pairs) / len(pairs)


def test_purity_counts_references_that_show_the_concept():
    samples = np.array([[0, 1], [2, 3], [0, 0]])
    of_all, of_each = np.array([1, 0, 1, 0], bool), np.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool)
    np.testing.assert_allclose(purity(samples, of_all), [1, 1 / 3])
    np.testing.assert_allclose(purity(samples, of_each), [1, 1 / 3])


def test_each_planted_direction_has_a_partner_of_its_own():
    planted = np.eye(3)
    assert recovery(5 * -planted[::-1], planted) == pytest.approx(1)
    assert recovery(planted[[0, 0, 0]], planted) == pytest.approx(1 / 3)  # one partner is right, others are orthogonal
    assert recovery(planted[:2], planted) == pytest.approx(2 / 3)
    assert recovery(np.zeros((3, 3)), planted) == 0


def test_what_is_equally_strong_counts_as_if_drawn_and_what_is_no_number_is_refused():
    mask = np.zeros((1, 2, 4), bool)
    mask[0, 0, :2] = True
    assert rank_accuracy(np.zeros((1, 2, 4)), mask)[0] == pytest.approx(2 / 8)
    half = np.zeros((1, 2, 4))
    half[0, 0, 0] = half[0, 1, 0] = half[0, 1, 1] = 1  # two of three that are equal
    assert rank_accuracy(half, mask)[0] == pytest.approx(2 / 3 * 1 / 2)
    for score in (rank_accuracy, mass_accuracy):
        with pytest.raises(ValueError, match="heatmaps are finite"):
            score(np.full((1, 2, 4), np.nan), mask)
    with pytest.raises(ValueError, match="true and false ones"):
        auroc([1, 2], [True, True])
    with pytest.raises(ValueError, match="numbered from 0 to 1"):
        purity([[-1]], [True, False])
    with pytest.raises(ValueError, match="as many dimensions"):
        recovery(np.ones((2, 3)), np.ones((2, 4)))
