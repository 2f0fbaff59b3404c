"""Reads matrices and returns small results that draw themselves.

``patterns``, ``pattern_search``, ``clustering``, ``unit_statistics``
    groups of samples to which a layer responds alike
``class_shares``
    which classes concepts serve
``prototypes``
    typical ways to be recognised as a class
``profiles``, ``grouping``, ``profile_sources``
    mean profiles of groups, from a store, a model, arrays or a folder
``topomap``, ``layouts``, ``response_map``, ``layer_responses``, ``rank_correlation``, ``neural_response_map``
    maps of layers
``spreading``, ``map_quality``
    maps on which nothing overlaps and neighbours stay neighbours, and how well they do
``synthesis``
    images that excite a concept
"""
from typing import TYPE_CHECKING

from crp.analysis.class_shares import ClassShares, class_shares
from crp.handed_on import imported_when_asked

if TYPE_CHECKING:
    from crp.analysis.grouping import group_profiles
    from crp.analysis.layouts import project
    from crp.analysis.map_quality import MapQuality
    from crp.analysis.neural_response_map import NeuralResponseMap
    from crp.analysis.pattern_search import find_patterns
    from crp.analysis.patterns import Patterns
    from crp.analysis.profiles import GroupProfiles, contrast
    from crp.analysis.prototypes import ClassPrototypes, class_prototypes
    from crp.analysis.response_map import ResponseMap
    from crp.analysis.synthesis import Synthesis, synthesize
    from crp.analysis.topomap import TopographicMap, plot_projection

__all__ = [
    "ClassPrototypes", "ClassShares", "GroupProfiles", "MapQuality", "NeuralResponseMap", "Patterns", "ResponseMap",
    "Synthesis", "TopographicMap", "class_prototypes", "class_shares", "contrast", "find_patterns", "group_profiles",
    "plot_projection", "project", "synthesize",
]

__getattr__, __dir__ = imported_when_asked(__name__, {
    "group_profiles": "grouping", "project": "layouts", "MapQuality": "map_quality",
    "NeuralResponseMap": "neural_response_map", "find_patterns": "pattern_search", "Patterns": "patterns",
    "GroupProfiles": "profiles", "contrast": "profiles", "ClassPrototypes": "prototypes",
    "class_prototypes": "prototypes", "ResponseMap": "response_map", "Synthesis": "synthesis",
    "synthesize": "synthesis", "TopographicMap": "topomap", "plot_projection": "topomap",
})
