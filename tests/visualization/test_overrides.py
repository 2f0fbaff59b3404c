"""What subclasses of zennit-crp's classes override is called, or refused; so is what attributes are set to."""
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset
from visualizations import CLASSES, MULTI_HOT, images, visualization
from zennit.composites import EpsilonPlusFlat

from crp.attribution import AttributionGraph, CondAttribution
from crp.cache import Cache, ImageCache
from crp.graph import ModelGraph
from crp.maximization import Maximization
from crp.statistics import Statistics
from crp.store import StoreError
from crp.visualization import FeatureVisualization

COMPOSITE = EpsilonPlusFlat()
SIGNATURES = Path(__file__).parent.parent / "signatures_of_zennit_crp.txt"
MULTI_HOT_IMAGES = TensorDataset(images(), MULTI_HOT)


def swept(path, kind=FeatureVisualization, **arguments):
    fv = visualization(path, kind=kind, **arguments)
    fv.run(COMPOSITE, 0, len(fv.dataset), 8)
    return fv


def same(one, other):
    return torch.equal(torch.as_tensor(one), torch.as_tensor(other))


@pytest.mark.parametrize("kind, name", [
    (FeatureVisualization, "analyze_relevance"), (FeatureVisualization, "analyze_activation"),
    (FeatureVisualization, "_load_ref_and_attribution"), (FeatureVisualization, "get_data_concurrently"),
    (FeatureVisualization, "_save_results"), (FeatureVisualization, "cache_reference"),
    (CondAttribution, "_register_mask_fn"), (CondAttribution, "_attribute"), (CondAttribution, "_conditions_wrapper"),
    (CondAttribution, "_collect_hook_activation_relevance"), (AttributionGraph, "_attribute_lower_level"),
    (ModelGraph, "_add_node"), (ImageCache, "_create_path"),
])
def test_what_would_never_be_called_is_refused_when_the_class_is_made(kind, name):
    with pytest.raises(TypeError, match=f"Mine.{name} would never be called: .*(override|give|writes)"):
        type("Mine", (kind,), {name: lambda self, *arguments: None})

    class Between(kind):
        pass

    with pytest.raises(TypeError, match=f"Mine.{name} would never be called"):
        type("Mine", (Between,), {name: lambda self, *arguments: None})


@pytest.mark.parametrize("kind", [Maximization, Statistics])
@pytest.mark.parametrize("name", ["analyze_layer", "collect_results", "_save_results"])
def test_own_analyses_are_refused_when_they_are_used(kind, name):
    mine = type("Mine", (kind,), {name: lambda self, *arguments: None})
    with pytest.raises(TypeError, match=f"Mine.{name} would never be called"):
        mine("relevance")


def methods_of(name):
    """The methods of one of zennit-crp's classes, but for those of Python."""
    inside = False
    for line in SIGNATURES.read_text(encoding="utf-8").splitlines():
        if line.startswith("  class "):
            inside = line.startswith(f"  class {name}(")
        elif inside and line.startswith("    "):
            method = line.strip().removeprefix("@staticmethod ").partition("(")[0]
            if not method.endswith("__"):
                yield method


def watched(kind, calls):
    """A subclass that overrides every method of zennit-crp's class that may be overridden."""
    def override(method):
        def called(self, *arguments, **options):
            calls.add(method)
            return getattr(super(Mine, self), method)(*arguments, **options)
        return called

    names = set(methods_of(kind.__name__)) - kind.replaced.keys()
    Mine = type("Mine", (kind,), {method: override(method) for method in names})  # noqa: N806
    return Mine, names


def test_every_method_of_zennit_crp_is_called_or_refused(tmp_path):
    calls, attribution_calls = set(), set()
    mine, expected = watched(FeatureVisualization, calls)
    attribution, attribution_expected = watched(CondAttribution, attribution_calls)
    cache = ImageCache(tmp_path / "cache")
    fv = visualization(tmp_path / "fv", kind=mine, cache=cache, data=MULTI_HOT_IMAGES, check=False)
    fv.attribution = attribution(fv.attribution.model)
    fv.run(COMPOSITE, 0, len(fv.dataset), 8)
    fv.precompute_ref({"conv": [1]}, COMPOSITE, stats=True)
    data = images(1).requires_grad_()
    list(fv.attribution.generate(data, [{"y": [1]}], COMPOSITE, verbose=False))
    assert calls | {"precompute_ref", "run"} == expected and len(expected) > 9
    assert attribution_calls == attribution_expected and len(attribution_expected) > 3


def test_what_would_never_be_called_is_no_attribute(fv):
    for instance, name in [(fv, "analyze_relevance"), (fv.attribution, "_attribute"), (fv.RelMax, "analyze_layer")]:
        with pytest.raises(TypeError, match=f"{name} would never be called"):
            setattr(instance, name, print)
        with pytest.raises(AttributeError, match=f"no attribute '{name}': .*override"):
            getattr(instance, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'$"):
        _ = fv.nothing


@pytest.mark.parametrize("methods", [
    {"save": lambda self, ref_c, layer_name, mode, r_range, composite, rf, f_name, plot_name, **kwargs: None},
    {"load": lambda self, concept_ids, layer_name, mode, r_range, composite, rf, f_name, plot_name, **kwargs: None},
])
@pytest.mark.parametrize("kind", [Cache, ImageCache])
def test_caches_with_the_arguments_of_before_are_refused(kind, methods):
    with pytest.raises(TypeError, match="key is a dict of all that changes a picture"):
        type("Mine", (kind,), methods)


def test_an_own_heatmap_of_references(tmp_path):
    calls = []

    class Mine(FeatureVisualization):
        def _attribution_on_reference(self, data, concept_id, layer_name, composite, rf=False, neuron_ids=(),
                                      batch_size=32):
            calls.append((data, concept_id, layer_name, composite, rf, list(neuron_ids), batch_size))
            return super()._attribution_on_reference(
                data, concept_id, layer_name, composite, rf, neuron_ids, batch_size
            ) * 0 + 7

    mine = swept(tmp_path / "mine", Mine, preprocess_fn=lambda x: x * 2)
    for rf in (False, True):
        calls.clear()
        found = mine.get_max_reference([1, 2], "conv2", "relevance", (0, 3), COMPOSITE, rf, None, 2)
        samples = {concept: mine.get_max_reference([concept], "conv2", r_range=(0, 3), plot_fn=None)[concept]
                   for concept in (1, 2)}
        assert [call[1:5] for call in calls] == [(1, "conv2", COMPOSITE, rf), (2, "conv2", COMPOSITE, rf)]
        for data, concept, *_, positions, batch_size in calls:
            assert same(data, samples[concept] * 2) and len(positions) == 3 and batch_size == 2
            assert same(found[concept][1], torch.full((3, 8, 8), 7.))
    assert mine.get_stats_reference(1, "conv2", [0], composite=COMPOSITE, plot_fn=None)["1:0"][1].max() == 7
    with pytest.raises(TypeError, match="none with targets="):
        mine.get_max_reference([1], "conv2", composite=COMPOSITE, targets=0)


@pytest.mark.parametrize("rf", [False, True])
def test_the_heatmaps_of_an_override_that_adds_nothing(tmp_path, rf):
    class Mine(FeatureVisualization):
        def _attribution_on_reference(self, *arguments, **options):
            return super()._attribution_on_reference(*arguments, **options)

    class Attribution(CondAttribution):
        def __call__(self, *arguments, **options):
            return super().__call__(*arguments, **options)

    plain, mine = swept(tmp_path / "plain"), swept(tmp_path / "mine", Mine)
    expected = plain.get_max_reference([1, 3], "conv2", "activation", (0, 5), COMPOSITE, rf, None, 2)
    attributed = visualization(tmp_path / "attributed")
    attributed.attribution = Attribution(attributed.attribution.model)
    attributed.run(COMPOSITE, 0, len(attributed.dataset), 8)
    for fv in (mine, attributed):
        found = fv.get_max_reference([1, 3], "conv2", "activation", (0, 5), COMPOSITE, rf, None, 2)
        for concept in (1, 3):
            torch.testing.assert_close(found[concept][1], expected[concept][1], rtol=1e-12, atol=1e-14)


def test_an_attribution_with_its_own_call_makes_the_heatmaps(tmp_path):
    class Attribution(CondAttribution):
        def __call__(self, *arguments, **options):
            result = super().__call__(*arguments, **options)
            return result if result.heatmap is None else result._replace(heatmap=result.heatmap * 0 + 3)

    fv = visualization(tmp_path)
    fv.attribution = Attribution(fv.attribution.model)
    fv.run(COMPOSITE, 0, len(fv.dataset), 8)
    heatmaps = fv.get_max_reference([1], "conv2", composite=COMPOSITE, plot_fn=None)[1][1]
    assert same(heatmaps, torch.full_like(heatmaps, 3))


def test_an_own_way_to_sweep(tmp_path):
    calls = []

    class Mine(FeatureVisualization):
        def run_distributed(self, composite, data_start, data_end, batch_size=16, checkpoint=500, on_device=None):
            calls.append((composite, data_start, data_end, batch_size, checkpoint, on_device))
            return [
                name for first, stop in [(data_start, 8), (8, data_end)]
                for name in super(Mine, self).run_distributed(composite, first, stop, batch_size, checkpoint, on_device)
            ]

    mine, plain = visualization(tmp_path / "mine", kind=Mine), visualization(tmp_path / "plain")
    store, expected = (fv.run(COMPOSITE, 0, 23, 8, 100) for fv in (mine, plain))
    assert calls == [(COMPOSITE, 0, 23, 8, 100, None)] and store.shards == ["00000000", "00000008"]
    assert np.array_equal(store.values("conv")[:], expected.values("conv")[:])
    assert mine.run(COMPOSITE, 0, 23, 8, 100).identity() == store.identity()
    with pytest.raises(TypeError, match="run_distributed or collect_results is overridden"):
        mine.run(COMPOSITE, 0, 23, overwrite=True)


def test_methods_of_an_object_are_called(tmp_path):
    fv = visualization(tmp_path)
    given = fv.get_data_sample
    fv.get_data_sample = lambda index, preprocessing=True: given(len(fv.dataset) - 1 - index, preprocessing)
    found = fv.run(COMPOSITE, 0, len(fv.dataset), 8).values("conv", "activation")[:]
    expected = swept(tmp_path / "expected").run(COMPOSITE, 0, len(fv.dataset), 8).values("conv", "activation")[:]
    np.testing.assert_allclose(found, expected[::-1], rtol=1e-6)


def test_several_samples_at_once(fv):
    data, targets = fv.get_data_concurrently(np.array([3, 1]), preprocessing=True)
    assert same(data, images()[[3, 1]]) and [int(target) for target in targets] == [0, 2]
    assert fv.Cache is fv.cache is None
    fv.Cache = cache = ImageCache("somewhere")
    assert fv.cache is cache


def test_a_store_that_something_else_has_made_is_read_on_request(tmp_path):
    fv = swept(tmp_path)
    other = visualization(tmp_path, preprocess_fn=lambda x: x + 1)
    with pytest.raises(StoreError, match=r"made with something else: .*check=False"):
        other.get_max_reference([0], "conv")
    unchecked = visualization(tmp_path, preprocess_fn=lambda x: x + 1, check=False)
    expected = fv.get_max_reference([0, 1], "conv", plot_fn=None)
    assert all(same(data, expected[concept]) for concept, data in
               unchecked.get_max_reference([0, 1], "conv", plot_fn=None).items())
    heatmaps = unchecked.get_max_reference([0], "conv", composite=EpsilonPlusFlat(epsilon=.5), plot_fn=None)[0][1]
    assert heatmaps.shape == (8, 8, 8)
    assert same(unchecked.compute_stats(0, "conv")[0], fv.compute_stats(0, "conv")[0])
    assert len(fv.compute_stats(0, "conv")[0]) == CLASSES
