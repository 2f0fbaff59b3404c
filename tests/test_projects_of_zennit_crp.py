"""How public projects use zennit-crp, in a few lines each: they find what they found there, or are told what to do."""
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from zennit.composites import EpsilonPlus, EpsilonPlusFlat
from zennit.core import Composite
from zennit.rules import Epsilon

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.helper import load_maximization, load_statistics
from crp.maximization import Maximization
from crp.statistics import Statistics
from crp.store import StoreError
from crp.visualization import FeatureVisualization

LAYER = "2"


class Network(nn.Sequential):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Linear(24, 3),
        )
        self.eval()


class Images(Dataset):
    images = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], index % 3


def visualization(path, kind=FeatureVisualization, **options):
    return kind(CondAttribution(Network()), Images(), {LAYER: ChannelConcept()}, path=str(path), **options)


def run(fv, composite=None):
    fv.run(composite or EpsilonPlusFlat(), 0, len(fv.dataset), 8, 100)
    return fv


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    return run(visualization(tmp_path_factory.mktemp("swept")))


def test_the_folder_is_searched_for_prototypes(tmp_path):
    """PURE, pattern-cav: more samples, a folder that is listed, and files that are read."""
    fv = visualization(tmp_path)
    fv.RelMax.SAMPLE_SIZE = fv.ActMax.SAMPLE_SIZE = 50
    if not os.listdir(fv.RelMax.PATH):
        run(fv)
    layers = {name.rpartition("_")[0] for name in os.listdir(fv.RelMax.PATH) if name.endswith("_data.npy")}
    assert layers == {LAYER} and os.path.isdir(fv.ActMax.PATH)
    samples = np.load(Path(fv.RelMax.PATH) / f"{LAYER}_data.npy")
    values = np.load(Path(fv.RelMax.PATH) / f"{LAYER}_rel.npy")
    assert samples.shape == (50, 6) and (np.diff(values, axis=0) <= 0).all()
    assert np.array_equal(samples, load_maximization(fv.RelMax.PATH, LAYER)[0])


def test_rankings_of_ones_own(tmp_path):
    """pcx, ExplainingWilderness, FHHI-XAI: objects with other settings take the place of those of the visualization."""
    fv = visualization(tmp_path, max_target="max", abs_norm=False)
    fv.RelMax = Maximization("relevance", "max", False, path=fv.path)
    fv.ActMax = Maximization("activation", "max", False, path=fv.path)
    fv.RelStats, fv.ActStats = (Statistics(mode, "max", False, path=fv.path) for mode in ("relevance", "activation"))
    run(fv)
    samples, values, positions = load_maximization(fv.ActMax.PATH, LAYER)
    recorded = CondAttribution(Network())(Images.images, [{"y": [0]}], record_layer=[LAYER]).activations[LAYER]
    largest = recorded.flatten(2).max(2)
    assert torch.equal(torch.tensor(samples[0]), largest.values.argmax(0))
    np.testing.assert_allclose(values[0], largest.values.max(0).values.numpy(), rtol=1e-5)
    assert list(fv.get_max_reference([3], LAYER, "activation", (0, 2), plot_fn=None)) == [3]


def test_an_analysis_of_ones_own_is_refused_where_it_would_be_used(tmp_path):
    """pcx, RationAI: a module with such a class can be imported; who uses it is told what to write instead."""
    class Prototypes(Maximization):
        def analyze_layer(self, rel, concept, layer_name, data_indices, targets):
            return super().analyze_layer(rel, concept, layer_name, data_indices, targets)

    with pytest.raises(TypeError, match="subclass crp.concepts.Concept"):
        visualization(tmp_path).RelMax = Prototypes("relevance", path=tmp_path)
    with pytest.raises(TypeError, match="analyze_relevance would never be called: .*crp.concepts.Concept"):
        type("Mine", (FeatureVisualization,), {"analyze_relevance": lambda self, rel, *arguments: None})


def test_arguments_by_their_names(swept):
    """semanticlens: names of arguments, within a subclass that sets sizes as it is made."""
    class Lens(FeatureVisualization):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.ActMax.SAMPLE_SIZE = 9

    fv = visualization(swept.path, Lens)
    samples, _, _ = load_maximization(path_folder=str(fv.ActMax.PATH), layer_name=LAYER)
    assert samples.shape == (9, 6)
    assert load_statistics(path_folder=fv.RelStats.PATH, layer_name=LAYER, target=1)[0].shape == (20, 6)


def test_heatmaps_of_references_under_a_class(tmp_path):
    """L-CRP, FeatureVisualizationTarget: heatmaps of references are made by an own method, sweeps by an own loop."""
    class Mine(FeatureVisualization):
        def run_distributed(self, composite, data_start, data_end, batch_size=16, checkpoint=500, on_device=None):
            return super().run_distributed(composite, data_start, data_end, batch_size, checkpoint, on_device)

        def _attribution_on_reference(self, data, concept_id, layer_name, composite, rf=False, neuron_ids=(),
                                      batch_size=32):
            conditions = [{layer_name: [concept_id], "y": [2]}]
            return torch.cat([
                self.attribution(part.requires_grad_(), conditions, composite, exclude_parallel=False).heatmap
                for part in data.split(batch_size)
            ])

    fv = run(visualization(tmp_path, Mine))
    data, heatmaps = fv.get_max_reference(4, LAYER, "relevance", (0, 5), EpsilonPlusFlat(), plot_fn=None)[4]
    expected = CondAttribution(Network())(data, [{LAYER: [4], "y": [2]}], EpsilonPlusFlat(), exclude_parallel=False)
    torch.testing.assert_close(heatmaps, expected.heatmap)


def test_pictures_with_other_rules_than_those_of_the_sweep(swept):
    """ExplainingWilderness: one composite for the sweep, another for the pictures."""
    with pytest.raises(StoreError, match="check=False"):
        visualization(swept.path).get_max_reference([0], LAYER, composite=EpsilonPlus())
    fv = visualization(swept.path, check=False)
    (images, heatmaps), = fv.get_max_reference([0], LAYER, "relevance", (0, 3), EpsilonPlus()).values()
    assert len(images) == len(heatmaps) == 3


def test_the_class_that_a_concept_serves_most(swept):
    """FeatureVisualizationTarget, a project on dsprites: what statistics give is indexed, converted and passed on."""
    targets, values = swept.compute_stats(1, LAYER, "relevance", top_N=2)
    assert values.numpy().shape == np.asarray(targets).shape == (2,)
    target, _ = swept.compute_stats(1, LAYER, "relevance", top_N=1)
    found = swept.get_stats_reference(1, LAYER, [target], "relevance", (0, 2), EpsilonPlusFlat(), plot_fn=None)
    assert list(found) == [f"1:{int(targets[0])}"]
    data, heatmaps = found[f"1:{int(targets[0])}"]
    assert data.numpy().shape == (2, 3, 8, 8) and heatmaps.numpy().shape == (2, 8, 8)


def test_names_from_star_imports():
    """Reveal2Revise, medical-ai-safety, crp-human-study: names that modules had from elsewhere."""
    names = {}
    exec("from crp.image import *\nfrom crp.attribution import attrResult", names)
    assert {"List", "Dict", "plt", "np", "torch", "zimage", "imgify"} <= names.keys()
    result = names["attrResult"](heatmap=1, activations=2, relevances=3, prediction=4)
    assert tuple(result) == (1, 2, 3, 4)


def test_rules_that_are_registered_by_hand():
    """TCD and others: rules of one's own are put on the model before the attribution is called."""
    model, data = Network(), Images.images[:2].clone().requires_grad_()
    kinds = nn.Conv2d, nn.Linear
    composite = Composite(lambda context, name, module: Epsilon() if isinstance(module, kinds) else None)
    expected = CondAttribution(model, functional=False)(data, [{LAYER: [1], "y": [0]}], composite).heatmap
    with composite.context(model):
        found = CondAttribution(model)(data, [{LAYER: [1], "y": [0]}], None).heatmap
    torch.testing.assert_close(found, expected)
    gradient = CondAttribution(model)(data, [{LAYER: [1], "y": [0]}], None).heatmap
    assert not torch.allclose(gradient, expected)


def test_several_samples_and_layers_of_conditions(swept):
    """FHHI-XAI and zennit-crp's tutorials: data of references at once, and layers of conditions among the results."""
    data, targets = swept.get_data_concurrently(torch.tensor([5, 7]), preprocessing=True)
    assert data.shape == (2, 3, 8, 8) and targets == [2, 1]
    result = swept.attribution(data.requires_grad_(), [{LAYER: [0], "y": [2]}], EpsilonPlusFlat(), record_layer=["0"])
    assert set(result.relevances) == set(result.activations) == {"0", LAYER}
