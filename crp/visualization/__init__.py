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
from crp.handed_on import HandedOn, names_of
from crp.model.positions import WithoutTokens
from crp.model.streams import Stream
from crp.visualization.feature_visualization import FeatureVisualization

__all__ = ["FeatureVisualization", "Stream", "WithoutTokens"]
__getattr__ = HandedOn(__name__, {
    **names_of("crp.attribution", "CondAttribution"), **names_of("crp.attribution.taps", "FeatVisHook"),
    **names_of("crp.concepts", "ChannelConcept Concept"),
    **names_of("crp.pictures.image", "vis_img_heatmap vis_opaque_img"),
    **names_of("crp.store.results", "load_maximization load_stat_targets load_statistics"),
    **names_of("crp.visualization.picture_cache", "Cache"),
    **names_of("crp.visualization.results", "Maximization Statistics"),
    **names_of("typing", "Callable Dict List Tuple Union"), **names_of("collections.abc", "Iterable"),
    **names_of("zennit.composites", "NameMapComposite"), **names_of("zennit.core", "Composite"),
    **names_of("tqdm.auto", "tqdm"), "concurrent": "concurrent", "functools": "functools", "inspect": "inspect",
    "math": "math", "np": "numpy", "torch": "torch", "warnings": "warnings",
})
__all__ += __getattr__.installed()
