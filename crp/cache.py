"""Pictures of references on the disk; the door to ``crp.visualization.picture_cache``."""
from crp.visualization.picture_cache import Cache, ImageCache

__all__ = ["Cache", "ImageCache"]
