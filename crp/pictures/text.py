"""Heatmaps of text: words on coloured ground, in notebooks and as pictures."""
from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from matplotlib import font_manager
from matplotlib.colors import LinearSegmentedColormap, to_hex
from PIL import Image, ImageDraw, ImageFont

from crp.pictures.heatmaps import check_threshold, scale_limits
from crp.pictures.plotting import NEGATIVE, POSITIVE, ink_on

COLOURS = LinearSegmentedColormap.from_list("relevance", [NEGATIVE, "white", POSITIVE], N=255)
_SPACES = (" ", "Ġ", "▁")  # how tokenizers mark a token that begins a word
_BRACKETED = re.compile(r"\s*(\[\w+\]|<[^<>]+>)")  # how tokenizers write tokens that are no text
_FONT_SIZE, _LINE_HEIGHT, _MARGIN, _DPI = 15, 22, 6, 150


class TokenHeatmap:
    """Relevance of the tokens of texts: red speaks for the output, blue against it; NaN and infinity have no colour.

    In a notebook it is shown as HTML, with the value of each token in its tooltip.

    Parameters
    ----------
    tokens : sequence of str, or sequence of such
        The tokens of one text, or of several, as ``tokenizer.decode(token)`` or ``convert_ids_to_tokens`` give them:
        marks for the begin or continuation of a word (``Ġ``, ``▁``, ``##``) are understood.
    heatmap : array [T] or list of such, [N, T]
        A value for each token.
    limit : float, optional
        Value of the strongest colour; by default the largest absolute value of each text.
    merge : {"words"}, optional
        Join tokens that no space divides to words, whose relevance is the sum. Tokens in brackets, such as ``[CLS]``
        and ``</s>``, are words of their own.

    Raises
    ------
    ValueError
        If there is not one value for each token, or ``merge`` is something else.
    """

    def __init__(self, tokens: Sequence, heatmap: Any, limit: float | None = None, merge: str | None = None):
        if merge not in (None, "words"):
            raise ValueError(f"merge is None or 'words', not {merge!r}")
        if len(tokens) and isinstance(tokens[0], str):
            tokens, heatmap = [tokens], [heatmap]
        self.tokens = spaced(tokens)
        self.values = [torch.as_tensor(values).detach().cpu().double() for values in heatmap]
        self.limit = limit
        shapes = [tuple(values.shape) for values in self.values]
        if shapes != [(len(text),) for text in self.tokens]:
            raise ValueError(
                f"a heatmap has one value for each token: there are texts of {[len(text) for text in self.tokens]} "
                f"tokens and heatmaps {shapes}"
            )
        if merge == "words":
            merged = [_merged(*text) for text in zip(self.tokens, self.values)]
            self.tokens, self.values = [words for words, _ in merged], [values for _, values in merged]

    def coloured(self) -> Iterator[list[tuple[str, float, str, str]]]:
        """For each text its tokens, with spaces: (token, value, colour of the ground, colour of the letters)."""
        for tokens, values in zip(self.tokens, self.values):
            finite = values.nan_to_num(0, 0, 0)
            limit = self.limit or float(finite.abs().max() if len(values) else 0) or 1.
            strengths = (finite / limit).clamp(-1, 1)
            yield [
                (token, float(value), ground := to_hex(COLOURS(float(strength) / 2 + .5)), ink_on(ground))
                for token, value, strength in zip(tokens, values, strengths)
            ]

    def to_html(self) -> str:
        """A ``<div>`` per text, which needs no style sheet."""
        return "\n".join(
            '<div style="font-family: sans-serif; line-height: 1.7; background: white; white-space: pre-wrap">'
            + "".join(
                f'<span title="{value:.3g}" style="background: {ground}; color: {ink}">{html.escape(token)}</span>'
                for token, value, ground, ink in text
            ) + "</div>" for text in self.coloured()
        )

    _repr_html_ = to_html

    def to_images(self, width: int = 480) -> list[Image.Image]:
        """A picture per text, of this width in pixels; lines are broken between tokens.

        The font has the letters of European languages, Greek, Cyrillic and Arabic among them; the browser has more.
        """
        return [_drawn(text, width) for text in self.coloured()]

    def __repr__(self) -> str:
        return "\n".join(
            "".join(f"{token}({value:+.2g})" for token, value in zip(text, values.tolist()))
            for text, values in zip(self.tokens, self.values)
        )


def vis_tokens(
    data_batch: Any, heatmaps: Any, rf: bool = False, decode: Callable[[int], str] = str, crop_th: float = 0.1,
    width: int = 480, key: str | int | None = None, *, merge: str | None = None, common_scale: bool = False,
) -> list[Image.Image]:
    """Draw texts with the relevance of their tokens; a ``plot_fn`` for references and ``plot_grid``.

    Parameters
    ----------
    data_batch, heatmaps : torch.Tensor [N, T], or a tuple or dict
        Token ids and their relevance. Tokens that ``attention_mask`` in a dict hides are not drawn.
    rf : bool, default False
        Crop to where the absolute relevance exceeds ``crop_th`` of its maximum.
    decode : callable, default str
        Token id -> text: ``functools.partial(vis_tokens, decode=tokenizer.decode)``.
    crop_th : float, default 0.1
    width : int, default 480
        In pixels.
    key : str or int, optional
        Which of several inputs is drawn; by default "input_ids", or the only one with a heatmap.
    merge : {"words"}, optional
        Join tokens to words, as :class:`TokenHeatmap` does.
    common_scale : bool, default False
        Give colours one meaning in all pictures, instead of the strongest to the strongest relevance of each.

    Returns
    -------
    list of PIL.Image.Image

    Raises
    ------
    ValueError
        If that is not a tensor of ids with a heatmap [N, T], or ``crop_th`` is not from 0 to below 1.
    """
    check_threshold("crop_th", crop_th)
    ids, heatmap = _without_hidden(data_batch, *_tokens_of(data_batch, heatmaps, key))
    texts, shown = [], []
    for tokens, values in zip(spaced([[decode(int(token)) for token in text] for text in ids]), heatmap):
        part = _relevant_range(values, crop_th) if rf else slice(None)
        texts.append(_Spaced(tokens[part]))
        shown.append(values[part])
    drawn = TokenHeatmap(texts, shown, merge=merge)
    if common_scale and texts:
        drawn.limit = scale_limits(drawn.values, common_scale)[0]
    return drawn.to_images(width)


def _tokens_of(data: Any, heatmaps: Any, key: str | int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The token ids and their heatmaps among inputs."""
    if not isinstance(data, torch.Tensor):
        keys = list(data) if isinstance(data, dict) else range(len(data))
        relevant = [name for name in keys if isinstance(heatmaps[name], torch.Tensor)]
        if key is None:
            key = "input_ids" if "input_ids" in relevant else relevant[0] if len(relevant) == 1 else None
        if key not in relevant:
            raise ValueError(f"say which input holds the token ids: key is one of {', '.join(map(repr, relevant))}")
        data, heatmaps = data[key], heatmaps[key]
    if data.is_floating_point() or data.shape != heatmaps.shape or data.ndim != 2:
        raise ValueError(
            f"token ids [N, T] have heatmaps [N, T], not {tuple(data.shape)} {data.dtype} and {tuple(heatmaps.shape)}"
        )
    return data, heatmaps


def _without_hidden(
    data: Any, ids: torch.Tensor, heatmap: torch.Tensor
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Tokens of each text, and their heatmap, without those that an attention mask hides."""
    mask = data.get("attention_mask") if isinstance(data, dict) else None
    if not isinstance(mask, torch.Tensor) or mask.shape != ids.shape:
        mask = torch.ones_like(ids)
    shown = mask.bool()
    return [text[kept] for text, kept in zip(ids, shown)], [values[kept] for values, kept in zip(heatmap, shown)]


def _relevant_range(heatmap: torch.Tensor, threshold: float) -> slice:
    strength = heatmap.detach().abs()
    found = torch.nonzero(strength > threshold * strength.max()) if len(strength) else strength
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(None)


class _Spaced(list[str]):
    """Tokens as they follow each other in running text."""


def spaced(texts: Iterable[Iterable[str]]) -> list[list[str]]:
    """Tokens of texts as they follow each other in running text.

    Tokens are taken for words with spaces between them, unless spaces, or marks for them, come with the tokens of any
    of the texts.
    """
    lists = [text if isinstance(text, _Spaced) else [_printable(str(token)) for token in text] for text in texts]
    is_marked = any(token.startswith(_SPACES) for text in lists for token in text)
    return [text if isinstance(text, _Spaced) else _Spaced(_with_spaces(text, is_marked)) for text in lists]


def _with_spaces(tokens: list[str], is_marked: bool) -> list[str]:
    if is_marked:
        return [f" {token[1:]}" if token.startswith(_SPACES) else token for token in tokens]
    return [
        token.removeprefix("##") if token.startswith("##") or i == 0 else f" {token}" for i, token in enumerate(tokens)
    ]


def _merged(tokens: list[str], values: torch.Tensor) -> tuple[list[str], torch.Tensor]:
    """Words of a running text, and the sums of the values of their tokens."""
    begins = [
        i == 0 or token[:1].isspace() or bool(_BRACKETED.fullmatch(token) or _BRACKETED.fullmatch(before))
        for i, (before, token) in enumerate(zip(["", *tokens], tokens))
    ]
    word_of = torch.tensor(begins, dtype=torch.long).cumsum(0) - 1
    words = [""] * sum(begins)
    for word, token in zip(word_of.tolist(), tokens):
        words[word] += token
    return _Spaced(words), torch.zeros(len(words), dtype=values.dtype).index_add(0, word_of, values)


def _printable(token: str) -> str:
    """A token without what cannot be drawn; ``Ċ`` alone is how byte-level tokenizers write a line break."""
    token = "\n" * len(token) if token and not token.strip("Ċ") else token
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in token)


def _drawn(text: list[tuple[str, float, str, str]], width: int) -> Image.Image:
    font = _font()
    places: list[tuple[float, int, str, str, str]] = []
    x: float = _MARGIN
    y = _MARGIN
    for token, _, ground, ink in text:
        pieces = token.split("\n")
        for i, piece in enumerate(pieces):
            if i or x > _MARGIN and x + font.getlength(piece) > width - _MARGIN:
                x, y = _MARGIN, y + _LINE_HEIGHT
            piece = piece.lstrip(" ") if x == _MARGIN else piece
            places.append((x, y, piece, ground, ink))
            x += font.getlength(piece)
    picture = Image.new("RGB", (width, y + _LINE_HEIGHT + _MARGIN), "white")
    picture.info["dpi"] = (_DPI, _DPI)
    draw = ImageDraw.Draw(picture)
    for x, y, piece, ground, _ in places:
        draw.rectangle((x, y, x + font.getlength(piece), y + _LINE_HEIGHT - 3), fill=ground)
    for x, y, piece, _, ink in places:  # after all grounds, into which letters may reach
        draw.text((x, y + (_LINE_HEIGHT - 3) / 2), piece, fill=ink, font=font, anchor="lm")
    return picture


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), _FONT_SIZE)
