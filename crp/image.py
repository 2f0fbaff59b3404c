"""Pictures of inputs and heatmaps; the door to ``crp.pictures``."""
from crp.handed_on import HandedOn, names_of
from crp.pictures.features import vis_features
from crp.pictures.heatmaps import get_crop_range, max_norm, smooth
from crp.pictures.image import imgify, plot_grid, upsample_patches, vis_img_heatmap, vis_opaque_img
from crp.pictures.kinds import vis_by_kind, vis_inputs
from crp.pictures.signals import vis_signal
from crp.pictures.sound import SoundHeatmap, relevance_over_frequency, vis_spectrogram
from crp.pictures.video import vis_frames

__all__ = [
    "SoundHeatmap", "get_crop_range", "imgify", "max_norm", "plot_grid", "relevance_over_frequency", "smooth",
    "upsample_patches", "vis_by_kind", "vis_features", "vis_frames", "vis_img_heatmap", "vis_inputs", "vis_opaque_img",
    "vis_signal", "vis_spectrogram",
]
__getattr__ = HandedOn(__name__, {
    **names_of("typing", "Any Dict Iterable List Tuple Union"), "Image": "PIL.Image", "np": "numpy", "torch": "torch",
    "gaussian_blur": "torchvision.transforms.functional:gaussian_blur", "plt": "matplotlib.pyplot",
    "gridspec": "matplotlib.gridspec", "zimage": "zennit.image",
})
__all__ += __getattr__.installed()
