"""References of concepts: the samples of a dataset that show what each stands for."""
from crp.visualization.feature_visualization import FeatureVisualization, Results

__all__ = ["FeatureVisualization", "Results"]
