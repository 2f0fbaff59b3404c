"""Which units matter, for what, and what happens without them.

``rank_units``, ``methods``, ``ranking``
    ranking units, the ways to do it, and the result
``values``, ``labels``, ``splits``
    what is ranked, read in blocks; what is known of its rows; which of them are held out
``moments``, ``columns``
    statistics of each unit
``probes``, ``gaussian``
    what is fitted to units
``between``, ``matching``
    units of several models
``report``
    what labels can be told from, with controls
``frames``
    tables of pandas
"""
from crp.neurons.matching import Match, match
from crp.neurons.rank_units import rank
from crp.neurons.ranking import Ranking
from crp.neurons.report import ProbeReport, probe_report
from crp.neurons.splits import HeldOut

__all__ = ["HeldOut", "Match", "ProbeReport", "Ranking", "match", "probe_report", "rank"]
