"""Which units matter, for what, and what happens without them.

``rank_units``, ``methods``, ``method_names``, ``ranking``
    ranking units, the ways to do it and their names, and the result
``values``, ``labels``, ``splits``, ``held_out``
    what is ranked, read in blocks; what is known of its rows; which of them are held out, and what these say
``moments``, ``columns``
    statistics of each unit
``probes``, ``gaussian``
    what is fitted to units
``between``, ``matching``
    units of several models
``report``
    what labels can be told from, with controls
``interventions``, ``changes``
    units set to other values while a model runs, and to which
``unit_effects``
    what units change in an answer, measured by patching and estimated by relevance
``curves``, ``lower_part``, ``metrics``, ``labelled_batches``
    what is left of a model without its units, in passes of what lies above them
``shifting``
    units moved from the values of one class to those of another
``words``
    units word by word, and the words at which they are strongest
"""
from typing import TYPE_CHECKING

from crp.handed_on import imported_when_asked

if TYPE_CHECKING:
    from crp.neurons.changes import Add, From, Mean, Resample, Scale, Shift
    from crp.neurons.curves import AblationCurves, Area, ablation_curve
    from crp.neurons.held_out import HeldOut
    from crp.neurons.interventions import intervene
    from crp.neurons.matching import Match, match
    from crp.neurons.rank_units import rank
    from crp.neurons.ranking import Ranking
    from crp.neurons.report import ProbeReport, probe_report
    from crp.neurons.shifting import ShiftedClass, shift_class
    from crp.neurons.unit_effects import Effects, effects
    from crp.neurons.words import TopWord, WordValues, top_words, with_random_weights, word_values

__all__ = [
    "AblationCurves", "Add", "Area", "Effects", "From", "HeldOut", "Match", "Mean", "ProbeReport", "Ranking",
    "Resample", "Scale", "Shift", "ShiftedClass", "TopWord", "WordValues", "ablation_curve", "effects", "intervene",
    "match", "probe_report", "rank", "shift_class", "top_words", "with_random_weights", "word_values",
]

__getattr__, __dir__ = imported_when_asked(__name__, {
    "Add": "changes", "From": "changes", "Mean": "changes", "Resample": "changes", "Scale": "changes",
    "Shift": "changes", "AblationCurves": "curves", "Area": "curves", "ablation_curve": "curves",
    "HeldOut": "held_out", "intervene": "interventions", "Match": "matching", "match": "matching",
    "rank": "rank_units", "Ranking": "ranking", "ProbeReport": "report", "probe_report": "report",
    "ShiftedClass": "shifting", "shift_class": "shifting", "Effects": "unit_effects", "effects": "unit_effects",
    "TopWord": "words", "WordValues": "words", "top_words": "words", "with_random_weights": "words",
    "word_values": "words",
})
