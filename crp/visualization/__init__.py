"""References of concepts: the samples of a dataset that show what each stands for.

``feature_visualization``   :class:`FeatureVisualization`, what users call and override
``swept_dataset``           samples as the model takes them, and the sweep over them
``specification``           what to sweep, specified by a dict
``reading``                 results, if they are read with what they were made with
``reference_pictures``      references with conditional heatmaps
``results``                 which results are meant; zennit-crp's files of them
``picture_cache``           keeps pictures of references on the disk

Users take :class:`FeatureVisualization`; names that stood in this module of zennit-crp are handed on.
"""
from zennit.core import Composite as Composite

from crp.attribution import CondAttribution as CondAttribution
from crp.concepts import Concept as Concept
from crp.pictures.image import vis_img_heatmap as vis_img_heatmap
from crp.pictures.image import vis_opaque_img as vis_opaque_img
from crp.visualization.feature_visualization import FeatureVisualization
from crp.visualization.picture_cache import Cache as Cache

__all__ = ["FeatureVisualization"]
