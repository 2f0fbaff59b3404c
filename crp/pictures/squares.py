"""Pictures as squares, and back."""
from __future__ import annotations

from PIL import Image

_PADDED = "crp_padded"


def padded(picture: Image.Image) -> Image.Image:
    """A picture as a square, with white beside or above and below it."""
    side = max(picture.size)
    square = Image.new("RGB", (side, side), (255, 255, 255))
    x, y = (side - picture.width) // 2, (side - picture.height) // 2
    square.paste(picture.convert("RGB"), (x, y))
    square.info[_PADDED] = (square.size, (x, y, x + picture.width, y + picture.height))
    return square


def unpadded(picture: Image.Image) -> Image.Image:
    """A picture without what :func:`padded` put around it, if it still has its size."""
    size, box = picture.info.get(_PADDED, (None, None))
    return picture.crop(box) if size == picture.size else picture
