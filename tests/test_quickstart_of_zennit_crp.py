"""zennit-crp's quickstarts run as they are, on the network they name."""
import numpy as np
import pytest
import torch
import torchvision
from matplotlib import pyplot as plt
from torch import nn


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return torchvision.models.vgg16_bn(weights=None).eval()


@pytest.fixture(scope="module")
def dataset():
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand(3, 32, 32, generator=generator), i % 3) for i in range(5)]


def test_quickstarts(model, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = dataset[0][0][None].requires_grad_()

    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.composites import EpsilonPlusFlat

    from crp.attribution import CondAttribution
    from crp.concepts import ChannelConcept
    from crp.helper import get_layer_names

    composite = EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()])
    attribution = CondAttribution(model)
    cc = ChannelConcept()
    layer_names = get_layer_names(model, [nn.Conv2d, nn.Linear])
    conditions = [{"features.27": [50], "y": [1]}]
    attr = attribution(data, conditions, composite, record_layer=layer_names)

    assert attr.heatmap.shape == (1, 32, 32)
    assert attr.prediction.shape == (1, 1000)
    assert set(attr.activations) == set(attr.relevances) == set(layer_names)
    assert torch.equal(attr.heatmap, data.grad.sum(1))

    rel_c = cc.attribute(attr.relevances["features.40"])
    concept_ids = torch.argsort(rel_c, descending=True)

    from crp.image import plot_grid
    from crp.visualization import FeatureVisualization

    layer_map = {(name, cc) for name in layer_names}
    fv = FeatureVisualization(attribution, dataset, layer_map)
    fv.run(composite, 0, len(dataset))
    ref_c = fv.get_max_reference(concept_ids[0, :5], "features.40", "relevance", composite=composite)
    figure = plot_grid(ref_c)
    plt.close(figure)

    assert list(ref_c) == concept_ids[0, :5].tolist()
    assert all(type(key) is int for key in ref_c)
    images, heatmaps = ref_c[int(concept_ids[0, 0])]
    assert len(images) == len(heatmaps) == len(dataset)


@pytest.mark.parametrize("ids", [3, [3], np.array([3]), torch.tensor([3]), np.int64(3), torch.tensor(3)])
def test_ids_of_any_kind(ids):
    from crp.concepts import as_ids

    assert as_ids(ids) == [3]
    assert type(as_ids(ids)[0]) is int
