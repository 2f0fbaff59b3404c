"""Hooks that read and mask relevance at modules; the door to ``crp.attribution.taps``."""
from crp.attribution.taps import FeatVisHook, MaskHook

__all__ = ["FeatVisHook", "MaskHook"]
