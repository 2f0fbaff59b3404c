"""Networks and data whose concepts are known, and scores of methods on them.

``glyphs``, ``glyph_network``, ``glyph_embedder``
    scenes of drawn glyphs, a network with channels that are tied to them, and embeddings of their pictures and names
``programs``, ``interchange``, ``bound_networks``
    programs of a few variables, training by interchange, and two networks that carry out programs
``features``
    activations that are sparse sums of known directions
``shortcut``
    digits, one of which is known by a mark
``guarantees``
    how far all this is true
``scores``
    how well methods do
"""
from crp.truth.bound_networks import adder_transformer, pair_images, pair_network
from crp.truth.features import SparseFeatures, sparse_features
from crp.truth.glyph_embedder import GlyphEmbedder
from crp.truth.glyph_network import GlyphNetwork, Localisation, train_glyph_network
from crp.truth.glyphs import GLYPHS, GlyphScenes, add_mark, glyph_scenes, mark_mask
from crp.truth.guarantees import Guarantee, TruthError
from crp.truth.interchange import InterchangeNetwork, Node, interchange_train
from crp.truth.programs import Program
from crp.truth.scores import auroc, mass_accuracy, purity, rank_accuracy, recovery
from crp.truth.shortcut import ShortcutNetwork, train_shortcut_network

__all__ = [
    "GLYPHS", "GlyphEmbedder", "GlyphNetwork", "GlyphScenes", "Guarantee", "InterchangeNetwork", "Localisation", "Node",
    "Program", "ShortcutNetwork", "SparseFeatures", "TruthError", "adder_transformer", "add_mark", "auroc",
    "glyph_scenes", "interchange_train", "mark_mask", "mass_accuracy", "pair_images", "pair_network", "purity",
    "rank_accuracy", "recovery", "sparse_features", "train_glyph_network", "train_shortcut_network",
]
