"""Heatmaps of text; the door to ``crp.pictures.text``."""
from crp.pictures.text import TokenHeatmap, spaced, vis_tokens

__all__ = ["TokenHeatmap", "spaced", "vis_tokens"]
