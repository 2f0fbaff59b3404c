"""Pictures of references on the disk; the door to ``crp.pictures.cache``."""
from crp.pictures.cache import Cache, ImageCache

__all__ = ["Cache", "ImageCache"]
