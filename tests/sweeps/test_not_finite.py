"""Samples that hold NaN, or for which a model gives NaN."""
import numpy as np
import pytest
import torch
from torch import nn
from zennit.composites import EpsilonPlus

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.model.samples import SampleError
from crp.store import verify
from crp.visualization import FeatureVisualization

pytestmark = pytest.mark.usefixtures("quick")


def spoilt(length=12, empty=(), not_finite=()):
    """Images, some of which hold NaN, and some for which a model with a root gives NaN."""
    data = [(torch.rand(1, 8, 8) + .1, i % 3) for i in range(length)]
    for i in empty:
        data[i][0][0, 0, 0] = torch.nan
    for i in not_finite:
        data[i][0].neg_()
    return data


class Root(nn.Module):
    def forward(self, x):
        return x.sqrt()


@pytest.mark.parametrize("batch_size", [1, 4, 12])
def test_samples_that_are_not_finite_or_become_so_are_named_and_skipped(tmp_path, batch_size):
    model = nn.Sequential(Root(), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    composite = EpsilonPlus()

    def run_over(data, name, **options):
        view = FeatureVisualization(CondAttribution(model), data, {"1": ChannelConcept()}, path=str(tmp_path / name))
        return view.run(composite, 0, len(data), batch_size, **options)

    with pytest.raises(SampleError, match="sample 5: FloatingPointError: the data hold NaN"):
        run_over(spoilt(empty=[5, 7]), "raise")
    with pytest.raises(SampleError, match="sample 6: FloatingPointError: relevance becomes NaN"):
        run_over(spoilt(not_finite=[6]), "raise too")
    data = spoilt(empty=[5], not_finite=[0, 6, 7])
    store = run_over(data, "skip", on_error="skip")
    assert list(store.skipped) == [0, 5, 6, 7] and "FloatingPointError" in store.skipped[6]
    others = [i for i in range(12) if i not in store.skipped]
    assert store.rows("relevance")["sample"].tolist() == others
    whole = run_over([data[i] for i in others], "others")
    np.testing.assert_allclose(store.values("1")[:], whole.values("1")[:], rtol=1e-5, atol=1e-7)
    assert verify(tmp_path / "skip") == []


def test_missing_numbers_that_the_model_fills_are_no_fault(tmp_path):
    class Filled(nn.Module):
        def forward(self, x):
            return x.nan_to_num(0.)

    model = nn.Sequential(Filled(), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    view = FeatureVisualization(CondAttribution(model), spoilt(empty=[2]), {"1": ChannelConcept()}, path=str(tmp_path))
    assert view.run(EpsilonPlus(), 0, 12, 4).skipped == {}
