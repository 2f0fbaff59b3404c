"""Pictures of samples and concepts: many in one file (a sprite), in cells of one size."""
from __future__ import annotations

import io
import threading
import warnings
from collections import OrderedDict
from typing import Any

import numpy as np
from PIL import Image, WebPImagePlugin

from crp.explorer.source import NO_MODEL, NO_SAMPLES, NotThereError, Source
from crp.explorer.worker import Progress

SIZES = (32, 48, 64, 96, 128, 224)
STRIP_CELL = 128
BLOCK, BLOCK_CELL = 256, 64
MOST_KEPT_SAMPLES = 100_000
_MOST_REMEMBERED, _DRAWN_TOGETHER = 1024, 4
_ENLARGED_SHARPLY = 64  # smaller pictures show their pixels
_WEBP = WebPImagePlugin.WebPImageFile.format  # known to Pillow by this import, which would import all formats otherwise


class Pictures:
    """Pictures of the samples of a source, and of the references of its concepts.

    Parameters
    ----------
    source : Source
    """

    def __init__(self, source: Source):
        self.source = source
        self._remembering = threading.Lock()
        self._remembered: OrderedDict[tuple[int, int], Image.Image] = OrderedDict()

    @property
    def are_there(self) -> bool:
        """Whether samples can be shown."""
        if self.source.kind == "texts":
            return self.source.corpus is not None
        if self.source.fv is not None:
            return True
        samples = self.source.known_samples
        return len(samples) > 0 and self.source.kept.read(_block_key(int(samples[0]) // BLOCK)) is not None

    def of_samples(self, samples: list[int], size: int, columns: int | None = None) -> bytes:
        """A sprite of samples, row by row; those that were asked for last are in memory."""
        key = {"what": "samples", "samples": samples, "size": size, "columns": columns}
        return self.source.kept.read(key) or self.source.kept.write(key, self.sheet(samples, size, columns), False)

    def sheet(self, samples: list[int], size: int, columns: int | None = None) -> bytes:
        """A sprite of samples, row by row; nothing where a number is negative.

        Raises
        ------
        NotThereError
            If there is no picture of one.
        """
        found = [self._reduced(sample, size) if sample >= 0 else None for sample in samples]
        return as_webp(grid(found, columns or len(found), size))

    def _reduced(self, sample: int, size: int) -> Image.Image:
        """A sample, no larger than a square; the last ones are in memory."""
        key = sample, size
        with self._remembering:
            if key in self._remembered:
                self._remembered.move_to_end(key)
                return self._remembered[key]
        made = self.plain(sample)
        if max(made.size) > size:
            made = fitted(made, size)
        with self._remembering:
            self._remembered[key] = made
            if len(self._remembered) > _MOST_REMEMBERED:
                self._remembered.popitem(last=False)
        return made

    def plain(self, sample: int) -> Image.Image:
        """A sample in its own size, or as it was kept.

        Raises
        ------
        NotThereError
            If there is no picture of it.
        """
        if self.source.fv is not None:
            from crp.pictures.kinds import vis_inputs

            with self.source.reading:
                return vis_inputs(self.source.fv.get_data_sample(sample, preprocessing=False)[0])[0]
        content = self.source.kept.read(_block_key(sample // BLOCK))
        kept = None if content is None else _from_block(content, sample % BLOCK)
        if kept is None:
            raise NotThereError(NO_MODEL + NO_SAMPLES)
        return kept

    def keep(self, progress: Progress = lambda share: None) -> int:
        """Keep small pictures of the samples in the store, for those who have only that; how many there are."""
        samples = self.source.known_samples[:MOST_KEPT_SAMPLES]
        numbers = np.unique(samples // BLOCK).tolist()
        for done, number in enumerate(numbers):
            progress(done / len(numbers))
            files = [b""] * BLOCK
            for sample in samples[samples // BLOCK == number].tolist():
                files[sample % BLOCK] = as_webp(self._small(sample))
            self.source.kept.write(_block_key(number), _as_block(files))
        return len(samples)

    def _small(self, sample: int) -> Image.Image:
        """A sample, no larger than what is kept of it."""
        found = self.plain(sample).convert("RGB")
        found.thumbnail((BLOCK_CELL, BLOCK_CELL))
        return found

    def strips_missing(self, request: StripRequest) -> list[int]:
        """Concepts whose references are not drawn yet."""
        return [concept for concept in request.concepts if self.source.kept.read(request.key(concept)) is None]

    def of_references(self, request: StripRequest, size: int) -> bytes:
        """A sprite with a row of references for each concept."""
        rows = []
        for concept in request.concepts:
            content = self.source.kept.read(request.key(concept))
            strip = Image.new("RGBA", (request.k * size, size)) if content is None else _opened(content)
            rows.append(strip.resize((request.k * size, size)) if strip.width != request.k * size else strip)
        whole = Image.new("RGBA", (request.k * size, size * len(rows)))
        for place, strip in enumerate(rows):
            whole.paste(strip, (0, place * size))
        return as_webp(whole)

    def draw_strips(self, request: StripRequest, concepts: list[int], progress: Progress) -> None:
        """Draw references of concepts with the model, and keep them."""
        for first in range(0, len(concepts), _DRAWN_TOGETHER):
            progress(first / len(concepts))
            for concept, pictures in self._references(request, concepts[first:first + _DRAWN_TOGETHER]).items():
                row = [*pictures[:request.k], *[None] * (request.k - len(pictures))]
                self.source.kept.write(request.key(concept), as_webp(grid(row, request.k, STRIP_CELL)))

    def _references(self, request: StripRequest, concepts: list[int]) -> dict[int, list[Image.Image]]:
        from crp.pictures.image import vis_img_heatmap, vis_opaque_img

        fv, composite = self.source.need_model()
        plot_fn = vis_img_heatmap if request.kind == "heatmap" else vis_opaque_img
        how: dict[str, Any] = {"mode": request.quantity, "r_range": (0, request.k), "composite": composite}
        how |= {"rf": request.kind == "crop", "plot_fn": plot_fn}
        with self.source.reading, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a concept is dead, its page says
            if request.target is None:
                found: dict[int, Any] = fv.get_max_reference(concepts, request.layer, **how)
            else:
                found = {concept: fv.get_stats_reference(concept, request.layer, [request.target], **how)[
                    f"{concept}:{request.target}"
                ] for concept in concepts}
        return {concept: drawn[-1] if isinstance(drawn, tuple) else drawn for concept, drawn in found.items()}


class StripRequest:
    """References of concepts of a layer, drawn in one way.

    Parameters
    ----------
    layer, quantity : str
    concepts : list of int
    k : int
        How many references.
    kind : {"heatmap", "opaque", "crop"}
    target : int, optional
        Of this class only.
    """

    def __init__(self, layer: str, quantity: str, concepts: list[int], k: int, kind: str, target: int | None):
        self.layer, self.quantity, self.concepts, self.k, self.kind = layer, quantity, concepts, k, kind
        self.target = target

    def key(self, concept: int) -> dict[str, Any]:
        """All that changes the picture of a concept."""
        return {
            "what": "strip", "layer": self.layer, "quantity": self.quantity, "concept": concept, "k": self.k,
            "kind": self.kind, "target": self.target,
        }


def fitted(picture: Image.Image, size: int) -> Image.Image:
    """A picture as large as a square allows, in its middle; small ones keep their pixels."""
    if picture.mode not in ("RGB", "L"):
        picture = picture.convert("RGBA")
    if picture.size == (size, size):
        return picture
    scale = size / max(picture.size)
    width, height = (max(round(side * scale), 1) for side in picture.size)
    sharply = scale > 1 and max(picture.size) < _ENLARGED_SHARPLY
    resampled = picture.resize(
        (width, height), Image.Resampling.NEAREST if sharply else Image.Resampling.BILINEAR, reducing_gap=2.
    )
    if (width, height) == (size, size):
        return resampled
    square = Image.new("RGBA", (size, size))
    square.paste(resampled, ((size - width) // 2, (size - height) // 2))
    return square


def grid(pictures: list[Image.Image | None], columns: int, size: int) -> Image.Image:
    """Pictures in squares side by side, row by row; nothing where there is none."""
    shapes = {picture.size for picture in pictures if picture is not None}
    width, height = shapes.pop() if len(shapes) == 1 else (0, 1)
    if width == height < min(size, _ENLARGED_SHARPLY):  # enlarged together, which is the same and much faster
        whole = grid(pictures, columns, width)
        return whole.resize((whole.width * size // width, whole.height * size // width), Image.Resampling.NEAREST)
    cells = [None if picture is None else fitted(picture, size) for picture in pictures]
    rows = max(-(-len(cells) // columns), 1)
    is_opaque = len(cells) == columns * rows and all(cell is not None and cell.mode != "RGBA" for cell in cells)
    whole = Image.new("RGB" if is_opaque else "RGBA", (columns * size, rows * size))
    for place, cell in enumerate(cells):
        if cell is not None:
            whole.paste(cell, (place % columns * size, place // columns * size))
    return whole


def as_webp(picture: Image.Image) -> bytes:
    """A picture as a file."""
    content = io.BytesIO()
    picture.save(content, _WEBP, quality=82, method=0)
    return content.getvalue()


def _opened(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=[_WEBP]) as picture:
        picture.load()
        return picture


def _block_key(number: int) -> dict[str, Any]:
    return {"what": "pictures", "number": number}


def _as_block(files: list[bytes]) -> bytes:
    """Files of consecutive samples in one: where each ends (int32), and all of them."""
    ends = np.cumsum([len(file) for file in files]).astype("<i4")
    return ends.tobytes() + b"".join(files)


def _from_block(content: bytes, place: int) -> Image.Image | None:
    """A picture in a block; None if there is none, or the block is damaged."""
    ends = np.frombuffer(content[:4 * BLOCK], "<i4")
    if len(ends) < BLOCK:
        return None
    start = 4 * BLOCK + (int(ends[place - 1]) if place else 0)
    file = content[start:4 * BLOCK + int(ends[place])]
    try:
        found = _opened(file)
    except OSError:
        return None
    return found if max(found.size) <= BLOCK_CELL else None
