"""Names on networks whose concepts are known. Slow: they are trained."""
import numpy as np
import pytest
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.trust import find, name_concepts, trust_report
from crp.truth import GLYPHS, GlyphEmbedder, train_glyph_network
from crp.visualization import FeatureVisualization

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("rule, seed", [("presence", 0), ("absence", 1)])
def test_glyphs_get_their_names_and_right_names_score_high(rule, seed, tmp_path):
    network = train_glyph_network(rule, random_state=seed)
    network.check()
    composite, embedder = EpsilonPlusFlat(), GlyphEmbedder()
    fv = FeatureVisualization(
        CondAttribution(network.model), network.training.dataset, {network.layer: ChannelConcept()}, path=tmp_path
    )
    store = fv.run(composite, 0, 1000)
    options = {"embed_images": embedder.images, "embed_texts": embedder.texts, "composite": composite}
    right = {channel: name for name, channels in network.groups.items() for channel in channels}
    names = name_concepts(fv, list(GLYPHS), **options)
    assert np.mean([names[channel].name == name for channel, name in right.items()]) >= .95
    assert np.mean([names[channel].score for channel in right]) >= .95
    random = np.random.default_rng(seed)
    wrong = {channel: random.choice([other for other in GLYPHS if other != name]) for channel, name in right.items()}
    assert np.mean(name_concepts(fv, wrong, **options, save=False).scores) <= .6
    for name, channels in network.groups.items():
        assert {found.concept for found in find(store, name, embedder.texts, k=2)} <= {*channels, *network.free}
    report = trust_report(fv, network.layer, sorted(right), composite, embed_images=embedder.images, verbose=False)
    assert np.median(report["clarity"]) > .5 and np.median(report["redundancy"]) > .9  # four channels see each glyph
