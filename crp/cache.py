"""Pictures of references on the disk; the door to ``crp.visualization.picture_cache``."""
from crp.handed_on import HandedOn, names_of
from crp.visualization.picture_cache import Cache, ImageCache

__all__ = ["Cache", "ImageCache"]
__getattr__ = HandedOn(__name__, {
    **names_of("typing", "Any Dict List Tuple Union"), "Image": "PIL.Image", "Path": "pathlib:Path",
})
__all__ += __getattr__.installed()
