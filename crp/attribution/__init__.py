"""One batch: forward, conditional backward; the graph of concepts; the audit; baselines.

``conditional``, ``steps``   :class:`CondAttribution`, what users call; the steps that they override
``conditions``, ``contrast``   what conditions may say, and their rows; outputs against others
``running``            rows group by group, or round by round after one forward pass
``passes``, ``taps``   one forward pass and backwards through it; reading and masking at layers
``sample_rows``, ``sample_finder``   where the samples are in the tensors of layers
``leaves``, ``origins``   where relevance ends: the data, and what integers look up
``attribution_graph``, ``model_graph``   concepts taken apart into those of lower layers
``audit``, ``audit_mode``, ``conservation``   where relevance is created or lost
``baselines``          other methods to compare with

Names that stood in this module of zennit-crp are handed on.
"""
from crp.attribution.attribution_graph import AttributionGraph, ConceptGraph
from crp.attribution.audit import Audit, OperationBalance
from crp.attribution.conditional import CondAttribution
from crp.attribution.contrast import Contrast
from crp.attribution.passes import AttributionResult
from crp.attribution.sample_rows import SampleRows
from crp.handed_on import HandedOn, names_of

__all__ = [
    "Audit", "AttributionGraph", "AttributionResult", "ConceptGraph", "CondAttribution", "Contrast", "OperationBalance",
    "SampleRows",
]
__getattr__ = HandedOn(__name__, {
    "attrResult": "crp.attribution.passes:AttributionResult",
    "attrGraphResult": "crp.attribution.attribution_graph:ConceptGraph",
    **names_of("crp.attribution.model_graph", "ModelGraph"), **names_of("crp.attribution.taps", "MaskHook"),
    **names_of("crp.concepts", "ChannelConcept Concept"), **names_of("typing", "Callable Dict List Tuple Union"),
    **names_of("zennit.composites", "NameMapComposite"), **names_of("zennit.core", "Composite"),
    **names_of("collections", "namedtuple"), **names_of("tqdm.auto", "tqdm"),
    "math": "math", "np": "numpy", "torch": "torch", "warnings": "warnings",
})
__all__ += __getattr__.installed()
