"""A call leaves no tensor behind, not even until the garbage collector comes."""
import gc

import pytest
import torch
from torch import nn
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution


@pytest.fixture
def model():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 3),
    ).eval().requires_grad_(False)


@pytest.mark.parametrize("arguments", [
    {}, {"record_layer": ["0", "3"]}, {"record_layer": ["0", "3"], "heatmap": False},
    {"record_layer": ["3"], "heatmap": False, "record_fn": lambda tensor, layer: tensor.sum((2, 3))},
    {"start_layer": "3"},
])
@pytest.mark.parametrize("method", ["__call__", "generate"])
@pytest.mark.parametrize("accelerate", [True, False])
def test_no_tensor_stays(model, arguments, method, accelerate):
    attribution, composite = CondAttribution(model, accelerate=accelerate), EpsilonPlusFlat()
    conditions = [{"3": [1], "y": [0]}, {"3": [2], "y": [0]}]
    if "start_layer" in arguments:
        conditions = [{"3": [1]}, {"3": [2]}]

    def attribute():
        verbose = {"verbose": False} if method == "generate" else {}
        results = getattr(attribution, method)(torch.rand(1, 1, 14, 14), conditions, composite, **arguments, **verbose)
        return list(results)

    gc.collect()
    gc.freeze()  # count only what the calls make
    try:
        attribute()
        gc.collect()
        gc.disable()
        before = count_tensors()
        attribute()
        assert count_tensors() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("functional", [True, False])
def test_an_audit_leaves_no_graph(model, functional):
    attribution = CondAttribution(model, functional=functional)
    attribution.audit(torch.rand(1, 1, 14, 14), EpsilonPlusFlat())
    graphs = count_graphs()
    for _ in range(3):
        attribution.audit(torch.rand(1, 1, 14, 14), EpsilonPlusFlat())
    assert count_graphs() == graphs


def count_graphs():
    """Tensors with a history that are left after the garbage collector came."""
    gc.collect()
    return sum(issubclass(type(item), torch.Tensor) and item.grad_fn is not None for item in gc.get_objects())


def count_tensors():
    return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())
