"""One batch: forward, conditional backward; the graph of concepts; the audit; baselines.

``conditional``, ``steps``   :class:`CondAttribution`, what users call; the steps that they override
``conditions``         what conditions may say, and their rows
``running``            rows group by group, or round by round after one forward pass
``passes``, ``taps``   one forward pass and backwards through it; reading and masking at layers
``sample_rows``, ``sample_finder``   where the samples are in the tensors of layers
``leaves``, ``origins``   where relevance ends: the data, and what integers look up
``attribution_graph``, ``model_graph``   concepts taken apart into those of lower layers
``audit``, ``audit_mode``, ``conservation``   where relevance is created or lost
``baselines``          other methods to compare with

Names that stood in this module of zennit-crp are handed on.
"""
from zennit.core import Composite as Composite

from crp.attribution.attribution_graph import AttributionGraph, ConceptGraph
from crp.attribution.audit import Audit, OperationBalance
from crp.attribution.conditional import CondAttribution
from crp.attribution.passes import AttributionResult
from crp.attribution.sample_rows import SampleRows
from crp.concepts import ChannelConcept as ChannelConcept

__all__ = [
    "Audit", "AttributionGraph", "AttributionResult", "ConceptGraph", "CondAttribution", "OperationBalance",
    "SampleRows",
]
