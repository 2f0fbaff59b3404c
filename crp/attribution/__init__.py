"""One batch: forward, conditional backward; the graph of concepts; the audit; baselines.

``conditional``        :class:`CondAttribution`, what users call and override
``conditions``         what conditions may say, and their rows
``passes``, ``taps``   one forward pass and backwards through it; reading and masking at layers
``attribution_graph``, ``model_graph``   concepts taken apart into those of lower layers
``audit``, ``audit_mode``   where relevance is created or lost
``baselines``          other methods to compare with
"""
from crp.attribution.attribution_graph import AttributionGraph, ConceptGraph
from crp.attribution.audit import Audit, OperationBalance
from crp.attribution.conditional import CondAttribution
from crp.attribution.passes import AttributionResult

__all__ = ["Audit", "AttributionGraph", "AttributionResult", "ConceptGraph", "CondAttribution", "OperationBalance"]
