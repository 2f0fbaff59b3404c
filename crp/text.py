"""Texts: corpora with their words, and heatmaps; the door to ``crp.model.corpus`` and ``crp.pictures.text``."""
from crp.model.corpus import Corpus
from crp.pictures.text import TokenHeatmap, spaced, vis_tokens

__all__ = ["Corpus", "TokenHeatmap", "spaced", "vis_tokens"]
