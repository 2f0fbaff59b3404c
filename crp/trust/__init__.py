"""Can a layer's relevance be trusted, and which of its concepts? And what are they called?

``reporting``, ``report``, ``checks``
    checking a layer, the result, and what it says in words
``rows``, ``removal``, ``flipping``
    samples to check on; concepts taken out of them; whether answers follow
``randomisation``, ``resampling``, ``clearness``, ``semantics``
    weights drawn anew and small noise; other samples; what concepts are like, without and with embeddings
``crops``, ``naming``, ``names``
    references as pictures, what they are called, and names that a store keeps
``arguments``, ``intervals``
    what functions are given, checked; numbers with bootstrap intervals
"""
from typing import TYPE_CHECKING

from crp.handed_on import imported_when_asked

if TYPE_CHECKING:
    from crp.trust.names import ConceptName, Names
    from crp.trust.naming import Found, find, name_concepts
    from crp.trust.report import COLUMNS, Check, TrustReport
    from crp.trust.reporting import trust_report
    from crp.trust.semantics import clarity, polysemanticity, redundancy

__all__ = [
    "COLUMNS", "Check", "ConceptName", "Found", "Names", "TrustReport", "clarity", "find", "name_concepts",
    "polysemanticity", "redundancy", "trust_report",
]

__getattr__, __dir__ = imported_when_asked(__name__, {
    "ConceptName": "names", "Names": "names", "Found": "naming", "find": "naming", "name_concepts": "naming",
    "COLUMNS": "report", "Check": "report", "TrustReport": "report", "clarity": "semantics",
    "polysemanticity": "semantics", "redundancy": "semantics", "trust_report": "reporting",
})
