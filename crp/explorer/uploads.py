"""Inputs that people bring: pictures, decoded defensively, in the form of the samples of the dataset."""
from __future__ import annotations

import hashlib
import io
import warnings
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from crp.explorer.source import NotThereError, Source

if TYPE_CHECKING:
    import torch

MOST_BYTES, MOST_PIXELS, MOST_UPLOADS = 2 ** 23, 2 ** 25, 32
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class UploadError(ValueError):
    """A picture that is none, too large, or not of the form of the samples."""


class TooLargeError(UploadError):
    """A file with too many bytes or pixels."""


class Uploads:
    """The last inputs that were uploaded for a source.

    Parameters
    ----------
    source : Source
    """

    def __init__(self, source: Source):
        self._source = source
        self._inputs: OrderedDict[str, torch.Tensor] = OrderedDict()

    def add(self, content: bytes) -> tuple[str, torch.Tensor]:
        """Take a picture; by which name it goes, and the input [C, H, W] before preprocessing.

        Raises
        ------
        UploadError
            If it is no picture, too large, or samples are no pictures.
        """
        example = self._example()
        values = to_input(decode(content, _mode_of(example)), example)
        name = hashlib.sha256(content).hexdigest()[:16]
        self._inputs[name] = values
        self._inputs.move_to_end(name)
        while len(self._inputs) > MOST_UPLOADS:
            self._inputs.popitem(last=False)
        return name, values

    def raw(self, name: str) -> torch.Tensor:
        """An input [1, C, H, W] before preprocessing; a NotThereError if it is not there any more."""
        if name not in self._inputs:
            raise NotThereError(f"there is no upload {name!r} any more: upload it again")
        return self._inputs[name][None]

    def ready(self, name: str) -> Any:
        """An input as the model takes it."""
        fv, _ = self._source.need_model()
        return fv.preprocess_data(self.raw(name).to(fv.device))

    def _example(self) -> torch.Tensor:
        """The first sample, before preprocessing."""
        import torch

        from crp.pictures.kinds import is_image

        fv, _ = self._source.need_model()
        with self._source.reading:
            data = fv.get_data_sample(int(self._source.known_samples[0]), preprocessing=False)[0]
        if not isinstance(data, torch.Tensor) or not is_image(data[0]):
            raise UploadError("samples of this dataset are no pictures, so none can be uploaded")
        return data[0].cpu()


def decode(content: bytes, mode: str) -> Image.Image:
    """A picture from a file that somebody sent.

    Raises
    ------
    UploadError
        If it is broken, of another format, or has too many pixels.
    """
    if len(content) > MOST_BYTES:
        raise TooLargeError(f"the file has {len(content):,} bytes; at most {MOST_BYTES:,} are taken")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    raise TooLargeError(
                        f"the picture has {picture.width} x {picture.height} pixels; at most {MOST_PIXELS:,} are taken"
                    )
                return _in_mode(ImageOps.exif_transpose(picture), mode)
    except UploadError:
        raise
    except Exception as error:  # whatever Pillow raises at a file that somebody sent
        raise UploadError(f"this is no picture that can be read ({', '.join(FORMATS)}): {error!r:.200}") from error


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    """A picture with other channels; what is transparent stands on white, and 16 bits are scaled to 8."""
    if picture.mode == "F":
        raise UploadError("a picture of floating-point numbers has no range that is known")
    if picture.mode.startswith("I"):
        values = np.asarray(picture, np.float64)
        scale = 257 if picture.mode.startswith("I;16") or values.max(initial=0) > 255 else 1
        picture = Image.fromarray((values / scale).round().clip(0, 255).astype(np.uint8))
    if mode != "RGBA" and picture.has_transparency_data:
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture.convert("RGBA"))
    return picture.convert(mode)


def to_input(picture: Image.Image, example: torch.Tensor) -> torch.Tensor:
    """A picture in the form of a sample: its size, its channels, its range of values.

    Raises
    ------
    UploadError
        If samples have values below 0 or above 1 (or 255 in whole numbers), so that what a picture would be is unknown.
    """
    import torch

    height, width = example.shape[-2:]
    pixels = torch.from_numpy(np.array(picture.resize((width, height), Image.Resampling.BILINEAR)))
    pixels = pixels[None] if pixels.ndim == 2 else pixels.movedim(-1, 0)
    pixels = pixels.reshape(example.shape)
    if not example.is_floating_point():
        return pixels.to(example.dtype)
    if example.min() < -1e-3 or example.max() > 1 + 1e-3:
        raise UploadError(
            "the dataset gives values that are not from 0 to 1, so how a picture becomes an input is not known: let "
            "the dataset give pictures from 0 to 1, and normalise in preprocess_fn"
        )
    return (pixels / 255).to(example.dtype)


def _mode_of(example: torch.Tensor) -> str:
    channels = 1 if example.ndim == 2 else len(example)
    if channels not in _MODES:
        raise UploadError(f"samples have {channels} channels, which no picture has")
    return _MODES[channels]
