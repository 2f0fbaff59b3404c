"""Which results of a sweep are meant; the door to ``crp.visualization.results``."""
from crp.visualization.results import Maximization

__all__ = ["Maximization"]
