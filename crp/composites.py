"""Composites that the literature found to work; the door to ``crp.rules.composites``."""
from crp.rules.composites import (
    EpsilonPlus,
    EpsilonPlusFlat,
    LanguageModel,
    VisionTransformer,
    default_composite,
    gives_relevance,
)

__all__ = [
    "EpsilonPlus", "EpsilonPlusFlat", "LanguageModel", "VisionTransformer", "default_composite", "gives_relevance",
]
