"""Reports tell right from wrong, on networks whose concepts are known. Slow: each network is trained."""
import numpy as np
import pytest
import torch
from torch.utils.data import Subset
from zennit.composites import EpsilonPlus, EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.concepts.base import Reading
from crp.trust import trust_report
from crp.truth import train_glyph_network
from crp.visualization import FeatureVisualization

pytestmark = pytest.mark.slow


class Shuffled(ChannelConcept):
    """Reads values of other channels than it masks."""

    def read(self, tensor, layer_name=None, max_target="sum"):
        found = super().read(tensor, layer_name, max_target)
        order = torch.from_numpy(np.random.default_rng(0).permutation(found.value.shape[1]))
        return Reading(found.value[:, order], found.position[:, order])


def report(network, folder, concept, composite, functional=True):
    fv = FeatureVisualization(
        CondAttribution(network.model, functional=functional), Subset(network.training.dataset, range(400)),
        {network.layer: concept}, path=folder,
    )
    fv.run(composite, 0, 400)
    return trust_report(fv, network.layer, composite=composite, held_out=network.held_out.dataset, verbose=False)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of relevance that is not conserved
@pytest.mark.parametrize("seed", range(20))
def test_the_right_composite_is_above_a_shuffled_layer_above_a_broken_composite(seed, tmp_path):
    network = train_glyph_network("presence" if seed % 2 else "absence", random_state=seed)
    network.check()
    right = report(network, tmp_path / "right", ChannelConcept(), EpsilonPlusFlat())
    shuffled = report(network, tmp_path / "shuffled", Shuffled(), EpsilonPlusFlat())
    broken = report(network, tmp_path / "broken", ChannelConcept(), EpsilonPlus(), functional=False)
    assert right.score > shuffled.score > broken.score
    assert right.holds and not broken.check("closed").holds
    assert right.check("faithful").value > shuffled.check("faithful").upper
