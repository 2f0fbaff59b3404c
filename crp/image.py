"""Pictures of inputs and heatmaps; the door to ``crp.pictures``."""
from crp.pictures.heatmaps import get_crop_range, max_norm, smooth
from crp.pictures.image import imgify, plot_grid, upsample_patches, vis_img_heatmap, vis_inputs, vis_opaque_img
from crp.pictures.signals import vis_features, vis_signal

__all__ = [
    "get_crop_range", "imgify", "max_norm", "plot_grid", "smooth", "upsample_patches", "vis_features",
    "vis_img_heatmap", "vis_inputs", "vis_opaque_img", "vis_signal",
]
