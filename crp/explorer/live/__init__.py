"""What the model answers now: predictions, heatmaps, graphs, and experiments on it. Only the worker calls this.

``answered``                        an answer with the numbers that travel beside it
``outputs``, ``explaining``         what the model answers, and why
``auditing``                        whether relevance adds up
``graphs``                          what a concept is made of, and where it goes
``manipulating``, ``ablating``, ``writing``
                                    experiments
"""
from typing import TYPE_CHECKING

from crp.handed_on import imported_when_asked

if TYPE_CHECKING:
    from crp.explorer.live.ablating import ablate
    from crp.explorer.live.auditing import audit
    from crp.explorer.live.explaining import assign, average, explain, heatmaps_of_concepts
    from crp.explorer.live.graphs import graph
    from crp.explorer.live.manipulating import manipulate
    from crp.explorer.live.writing import continue_text

__all__ = [
    "ablate", "assign", "audit", "average", "continue_text", "explain", "graph", "heatmaps_of_concepts", "manipulate",
]

__getattr__, __dir__ = imported_when_asked(__name__, {
    "ablate": "ablating", "assign": "explaining", "audit": "auditing", "average": "explaining",
    "continue_text": "writing", "explain": "explaining", "graph": "graphs", "heatmaps_of_concepts": "explaining",
    "manipulate": "manipulating",
})
