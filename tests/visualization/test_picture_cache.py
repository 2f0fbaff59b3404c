"""Pictures come from the cache, if they are those that were asked for."""
import functools

import numpy as np
import pytest
import torch
from PIL import Image
from visualizations import SAMPLES, Absolute, CountSamples, counting_model, swept, visualization
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlusFlat

from crp.cache import ImageCache
from crp.concepts import ChannelConcept
from crp.image import plot_grid, vis_img_heatmap, vis_opaque_img
from crp.visualization import FeatureVisualization

pytestmark = pytest.mark.usefixtures("quick")


def same_pictures(one, other):
    if isinstance(one, tuple):
        return isinstance(other, tuple) and len(one) == len(other) and all(map(same_pictures, one, other))
    return isinstance(other, list) and len(one) == len(other) and all(
        np.array_equal(np.asarray(a.convert("RGB")), np.asarray(b.convert("RGB"))) for a, b in zip(one, other)
    )


@pytest.fixture
def cached(fv, tmp_path):
    fv.cache = ImageCache(tmp_path / "cache")
    return fv


@pytest.mark.parametrize("plot_fn", [vis_img_heatmap, vis_opaque_img])
@pytest.mark.parametrize("concepts", [[0, 2], 1])
def test_known_bug_pictures_come_from_the_cache_the_second_time(cached, plot_fn, concepts):
    arguments = {"composite": EpsilonPlusFlat(), "plot_fn": plot_fn, "r_range": (0, 11)}
    made = cached.get_max_reference(concepts, "conv", **arguments)
    with CountSamples(cached.attribution.model) as counted:
        loaded = cached.get_max_reference(concepts, "conv", **arguments)
    assert counted.total == 0
    assert list(loaded) == list(made) and all(type(key) is int for key in loaded)
    assert all(same_pictures(made[key], loaded[key]) for key in made)
    assert plot_grid(loaded) is not None


def test_only_what_the_cache_lacks_is_made(cached):
    first = cached.get_max_reference([1, 2], "conv", composite=EpsilonPlusFlat())
    with CountSamples(cached.attribution.model) as counted:
        found = cached.get_max_reference([2, 0, 1], "conv", composite=EpsilonPlusFlat(), r_range=(0, 8))
    assert counted.total == 8
    assert list(found) == [2, 0, 1]
    assert same_pictures(found[1], first[1]) and same_pictures(found[2], first[2])


def test_overwrite_makes_pictures_anew(cached):
    made = cached.get_max_reference(1, "conv", composite=EpsilonPlusFlat())
    for file in cached.cache.path.rglob("*.png"):
        Image.new("L", (3, 3)).save(file)
    assert not same_pictures(cached.get_max_reference(1, "conv", composite=EpsilonPlusFlat())[1], made[1])
    again = cached.get_max_reference(1, "conv", composite=EpsilonPlusFlat(), overwrite=True)
    assert same_pictures(again[1], made[1])
    assert same_pictures(cached.get_max_reference(1, "conv", composite=EpsilonPlusFlat())[1], made[1])


def test_without_plot_fn_the_cache_is_not_asked(cached):
    found = [cached.get_max_reference(1, "conv", composite=EpsilonPlusFlat(), plot_fn=None)[1] for _ in range(2)]
    assert all(isinstance(part, torch.Tensor) for pair in found for part in pair)
    assert not cached.cache.path.exists()


BASE = {"concept_ids": 1, "layer_name": "conv", "mode": "relevance", "r_range": (0, 2), "rf": False, "targets": None,
        "plot_fn": functools.partial(vis_opaque_img, alpha=0.3)}
OTHER_ARGUMENTS = {
    "concept": {"concept_ids": 2}, "layer": {"layer_name": "conv2"}, "mode": {"mode": "activation"},
    "range": {"r_range": (0, 3)}, "later range": {"r_range": (1, 3)}, "rf": {"rf": True}, "targets": {"targets": 1},
    "plot_fn": {"plot_fn": vis_img_heatmap}, "parameter": {"plot_fn": functools.partial(vis_opaque_img, alpha=0.1)},
    "other parameter": {"plot_fn": functools.partial(vis_opaque_img, vis_th=0.3)},
    "composite parameter": {"mode": "activation", "composite": EpsilonPlusFlat(epsilon=1e-2)},
    "canonizer": {"mode": "activation", "composite": EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()])},
}


@pytest.mark.parametrize("what", OTHER_ARGUMENTS)
def test_known_bug_pictures_of_other_arguments_are_not_taken_from_the_cache(cached, what):
    def ask(**arguments):
        with CountSamples(cached.attribution.model) as counted:
            cached.get_max_reference(**{"composite": EpsilonPlusFlat(), **BASE, **arguments})
        return counted.total

    assert ask() > 0
    assert ask(**OTHER_ARGUMENTS[what]) > 0
    assert ask() == ask(**OTHER_ARGUMENTS[what]) == 0


def test_a_composite_is_part_of_the_key(cached):
    plain = cached.get_max_reference(1, "conv")
    assert not same_pictures(plain[1], cached.get_max_reference(1, "conv", composite=EpsilonPlusFlat())[1])


class Negative(FeatureVisualization):
    def get_data_sample(self, index, preprocessing=True):
        data, target = super().get_data_sample(index, preprocessing)
        return data if preprocessing else 1 - data, target


@pytest.mark.parametrize("what", ["max_target", "abs_norm", "sweep", "attribution", "samples"])
def test_pictures_of_another_analysis_are_not_taken_from_the_cache(tmp_path, what):
    def ask(fv):
        with CountSamples(fv.attribution.model) as counted:
            fv.get_max_reference(1, "conv", "activation", composite=EpsilonPlusFlat())
        return counted.total

    path, cache = tmp_path / "store", ImageCache(tmp_path / "cache")
    first = swept(path, cache=cache, max_target="max")
    assert ask(first) > 0 and ask(first) == 0
    common = {"path": path, "cache": cache, "max_target": "max"}
    if what == "max_target":
        other = visualization(**{**common, "max_target": "sum"})
    elif what == "abs_norm":
        other = visualization(abs_norm=False, **common)
    elif what == "sweep":
        other = visualization(**common)
        other.run(EpsilonPlusFlat(epsilon=1e-2), 0, SAMPLES, batch_size=7, overwrite=True)
    elif what == "attribution":
        other = visualization(**common)
        other.attribution = Absolute(other.attribution.model)
    else:
        other = visualization(kind=Negative, **common)
    assert ask(other) > 0


def test_models_that_count_their_passes_have_pictures_in_the_cache(tmp_path):
    fv = swept(tmp_path / "store", model=counting_model(), cache=ImageCache(tmp_path / "cache"))
    for _ in range(3):
        fv.get_max_reference(1, "conv", composite=EpsilonPlusFlat())
    assert len(list((tmp_path / "cache").glob("*"))) == 1


@pytest.mark.parametrize("ask, error, message", [
    (lambda fv: fv.compute_stats([1, 2], "conv"), ValueError, "one concept id"),
    (lambda fv: fv.compute_stats(1, "conv", top_N=0), ValueError, "at least 1"),
    (lambda fv: fv.compute_stats(1, "conv", mean_N=0), ValueError, "at least 1"),
    (lambda fv: fv.get_stats_reference([1, 2], "conv", 1), ValueError, "one concept id"),
    (lambda fv: fv.get_max_reference(1, "conv", r_range=8), TypeError, "pair of integers"),
    (lambda fv: fv.get_max_reference(1, "conv", r_range=(0, 8.5)), TypeError, "pair of integers"),
    (lambda fv: fv.get_max_reference(1, "conv", batch_size=0), ValueError, "batch_size"),
    (lambda fv: fv.run(EpsilonPlusFlat, 0, 3, overwrite=True), TypeError, r"EpsilonPlusFlat\(\)"),
    (lambda fv: fv.run(None, 0, 3, overwrite=True), TypeError, r"Composite\(\)"),
    (lambda fv: FeatureVisualization(fv.attribution.model, fv.dataset, fv.layer_map), TypeError, "CondAttribution"),
    (lambda fv: FeatureVisualization(fv.attribution, fv.dataset, "conv"), TypeError, "layer_map maps layers"),
    (lambda fv: FeatureVisualization(fv.attribution, fv.dataset, {"conv": ChannelConcept}), TypeError,
     r"ChannelConcept\(\)"),
])
def test_arguments_of_the_wrong_kind_are_refused_by_name(fv, ask, error, message):
    with pytest.raises(error, match=message):
        ask(fv)


def test_precomputed_references_are_in_the_cache(cached):
    composite = EpsilonPlusFlat()
    cached.precompute_ref({"conv": [0, 3], "conv2": torch.tensor([1])}, composite, rf=True, stats=True, top_N=2,
                          plot_list=[vis_opaque_img, vis_img_heatmap])
    with CountSamples(cached.attribution.model) as counted:
        for plot_fn in (vis_opaque_img, vis_img_heatmap):
            cached.get_max_reference([0, 3], "conv", composite=composite, rf=True, plot_fn=plot_fn)
            cached.get_max_reference(1, "conv2", composite=composite, rf=True, plot_fn=plot_fn)
            targets, _ = cached.compute_stats(3, "conv", top_N=2)
            cached.get_stats_reference(3, "conv", targets, composite=composite, rf=True, plot_fn=plot_fn)
    assert counted.total == 0
    with CountSamples(cached.attribution.model) as counted:
        cached.get_max_reference([0, 3], "conv", composite=composite, rf=False, plot_fn=vis_opaque_img)
    assert counted.total > 0


def test_precomputing_makes_opaque_receptive_fields_by_default(cached):
    cached.precompute_ref({"conv": [0]}, EpsilonPlusFlat())
    with CountSamples(cached.attribution.model) as counted:
        cached.get_max_reference(0, "conv", composite=EpsilonPlusFlat(), rf=True, plot_fn=vis_opaque_img)
    assert counted.total == 0


def test_class_references_are_cached_under_their_own_ids(cached):
    for _ in range(2):
        found = cached.get_stats_reference(1, "conv", [0, 2], composite=EpsilonPlusFlat())
        assert list(found) == ["1:0", "1:2"]
    with CountSamples(cached.attribution.model) as counted:
        cached.get_stats_reference(1, "conv", [2, 1], composite=EpsilonPlusFlat(), r_range=(0, 8))
    assert 0 < counted.total <= 8
