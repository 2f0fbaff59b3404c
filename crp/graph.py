"""Which layers feed which; the door to ``crp.attribution.model_graph``."""
from crp.attribution.model_graph import ModelGraph, trace_model_graph

__all__ = ["ModelGraph", "trace_model_graph"]
