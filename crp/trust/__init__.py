"""Can a layer's relevance be trusted, and which of its concepts? And what are they called?

``trust_report``, ``report``, ``checks``
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
from crp.trust.names import ConceptName, Names
from crp.trust.naming import Found, find, name_concepts
from crp.trust.report import COLUMNS, Check, TrustReport
from crp.trust.semantics import clarity, polysemanticity, redundancy
from crp.trust.trust_report import trust_report

__all__ = [
    "COLUMNS", "Check", "ConceptName", "Found", "Names", "TrustReport", "clarity", "find", "name_concepts",
    "polysemanticity", "redundancy", "trust_report",
]
