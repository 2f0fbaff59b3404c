"""Copies of the explorer that open from disk, without a server and without a network."""
from __future__ import annotations

import base64
import json
import math
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import urlencode

import numpy as np
from tqdm.auto import tqdm

from crp import __version__
from crp.explorer.asking import Answer, ask
from crp.explorer.concept_pages import summary_of
from crp.explorer.joining import as_script, styles
from crp.explorer.pattern_pages import need_patterns
from crp.explorer.pictures import BLOCK_CELL, Pictures
from crp.explorer.server import create_app
from crp.explorer.source import NotThereError, Source
from crp.store import QUANTITIES

MOST_PAGES, MOST_EXPLAINED, MOST_MAPPED, MOST_REFERENCES, MOST_PICTURES = 120, 40, 2 ** 14, 8, 12_000
SHEET, STABLE = 256, 16  # samples of a pattern that cards show at most, from either end
CELL = 80
_PATIENCE = 600.
_POLICY = (
    "default-src 'none'; script-src 'self' file: 'unsafe-inline'; style-src 'self' file: 'unsafe-inline'; "
    "img-src 'self' file: data: blob:"
)

Subject: TypeAlias = tuple[Literal["concept", "sample", "pattern"], int, str, int]
"""What a page is of: its kind, the layer, the quantity, and its number."""


@dataclass
class Copy:
    """What a copy holds: files, and in which of them each answer is.

    Attributes
    ----------
    pictures : dict
        Name of a file -> its content.
    answers : dict
        Name of a file -> path that is asked -> answer.
    """

    pictures: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def add(self, file: str, path: str, found: Answer) -> None:
        """Keep an answer, if there was one."""
        if found.status != 200:
            return
        if found.type == "image/webp":
            name = f"data/{len(self.pictures):05d}.webp"
            self.pictures[name] = found.content
            self.places[path] = name
            return
        is_text = found.type.startswith("application/json")
        told = found.content.decode() if is_text else base64.b64encode(found.content).decode()
        self.answers.setdefault(file, {})[path] = {"type": found.type, "shape": found.shape, "told": told}
        self.places[path] = f"data/{file}.js"

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of each file with data."""
        yield from self.pictures.items()
        for file, answers in self.answers.items():
            yield f"data/{file}.js", f"crpExplorer.add({_as_literal(answers)});\n".encode()
        yield "data/index.js", f"crpExplorer.places = {_as_literal(self.places)};\n".encode()


def export(
    source: Source, folder: str | Path, concepts: int = 1000, references: int = 8, *,
    report: Callable[[str], object] = print, verbose: bool = True,
) -> list[Path]:
    """Write a copy of the explorer that opens by a double click on ``index.html``.

    Parameters
    ----------
    source : Source
    folder : str or Path
        Where there is nothing yet, or an empty folder.
    concepts : int, default 1000
        At most so many, of all layers together: those with the largest shares of relevance in each.
    references : int, default 8
        Samples of each concept, at most 8.
    report : callable, default print
        Is told the size before anything is written.
    verbose : bool, default True
        Whether to show a progress bar.

    Returns
    -------
    list of Path
        All files.

    Raises
    ------
    FileExistsError
        If the folder holds something.
    """
    if concepts < 1 or not 1 <= references <= MOST_REFERENCES:
        raise ValueError(
            f"concepts is at least 1, references from 1 to {MOST_REFERENCES}, not {concepts} and {references}"
        )
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} holds something already: name a folder that is new or empty")
    folder.parent.mkdir(parents=True, exist_ok=True)
    chosen = chosen_concepts(source, concepts)
    copy = _collected(source, chosen, references, _samples_of(source, chosen, references), verbose)
    files = {"index.html": _page().encode(), "explorer.js": _script().encode(), "explorer.css": styles().encode()}
    files |= dict(copy.files())
    size = sum(map(len, files.values()))
    report(f"{sum(map(len, chosen.values()))} concepts, {len(files)} files, {size / 2 ** 20:.1f} MiB")
    return _written(folder, files)


def export_page(
    source: Source, file: str | Path, subject: Subject, references: int = 8, *,
    report: Callable[[str], object] = print, verbose: bool = False,
) -> list[Path]:
    """Write one concept, sample or pattern into one HTML file.

    Parameters
    ----------
    source : Source
    file : str or Path
    subject : tuple
        ("concept", "sample" or "pattern"; number of the layer; quantity; its number).
    references : int, default 8
    report, verbose
        As for :func:`export`.

    Returns
    -------
    list of Path
        The file.

    Raises
    ------
    NotThereError
        If the store has no such thing.
    """
    path = Path(file)
    if path.exists() or not path.parent.is_dir():
        raise FileExistsError(f"{path} is there already, or the folder that it would be in is not")
    if not 1 <= references <= MOST_REFERENCES:
        raise ValueError(f"references is from 1 to {MOST_REFERENCES}, not {references}")
    kind, layer, quantity, number = subject
    chosen: dict[int, list[int]] = {layer: source.concepts(layer, [number])} if kind == "concept" else {}
    samples = source.samples([number]) if kind == "sample" else []
    if kind == "pattern" and not 0 <= number < len(need_patterns(source, layer, quantity)):
        raise NotThereError(f"there is no pattern {number}")
    copy = _collected(
        source, chosen, references, samples + _samples_of(source, chosen, references), verbose,
        (layer, quantity) if kind == "pattern" else None,
    )
    query: dict[str, object] = {"layer": source.layer(layer), "quantity": quantity}
    query |= {"input": number} if kind == "sample" else {kind: number}
    place = f"#{'patterns' if kind == 'pattern' else kind}?{urlencode(query)}"
    whole = _page(copy, place).encode()
    report(f"{len(whole) / 2 ** 20:.1f} MiB")
    path.write_bytes(whole)
    return [path]


def chosen_concepts(source: Source, most: int) -> dict[int, list[int]]:
    """For each layer, the concepts with the largest shares of relevance: as many of each layer as there is room for."""
    sizes = np.array([len(source.store.concepts(layer)) for layer in source.store.layers])
    limit = max(limit for limit in range(sizes.max() + 1) if np.minimum(sizes, limit).sum() <= most)
    room = np.minimum(sizes, limit)
    for number in reversed(range(len(sizes))):  # what is left goes to the last layers
        if room[number] < sizes[number] and room.sum() < most:
            room[number] += 1
    found: dict[int, list[int]] = {}
    for number, count in enumerate(room.tolist()):
        share = np.nan_to_num(summary_of(source, number, "relevance").columns["share"])
        found[number] = sorted(np.argsort(-share, kind="stable")[:count].tolist())
    return found


def _samples_of(source: Source, chosen: dict[int, list[int]], references: int) -> list[int]:
    """The samples that pages of concepts show, those of many concepts first."""
    counts: dict[int, int] = {}
    for number, concepts in chosen.items():
        for quantity in QUANTITIES:
            table = source.store.table(source.layer(number), quantity)["sample"][concepts, :references]
            for sample, many in zip(*(part.tolist() for part in np.unique(table, return_counts=True))):
                counts[sample] = counts.get(sample, 0) + many
    return sorted(counts, key=lambda sample: (-counts[sample], sample))


def _collected(
    source: Source, chosen: dict[int, list[int]], references: int, samples: list[int], verbose: bool,
    of_pattern: tuple[int, str] | None = None,
) -> Copy:
    """Ask for all that a copy shall hold."""
    app, copy, base = create_app([source]), Copy(), f"/api/{source.key}"
    pictures = Pictures(source)

    def take(file: str, path: str, patience: float = _PATIENCE) -> Answer:
        found = ask(app, path, patience=patience)
        copy.add(file, path, found)
        return found

    take("store", "/api/stores")
    if source.fv is not None and chosen:
        take("store", f"{base}/audit")
    shown: dict[int, None] = dict.fromkeys(samples)
    others: list[int] = []
    kinds = ["heatmap", "crop", "opaque"] if source.fv is not None and source.kind == "pictures" else []
    for number in chosen:
        for quantity in QUANTITIES:
            start = f"{base}/layers/{number}"
            take(f"layer-{number}", f"{start}?quantity={quantity}")
            take(f"layer-{number}", f"{start}/columns?quantity={quantity}")
            count = len(source.store.concepts(source.layer(number)))
            is_small = count * (1 + len(source.classes)) <= MOST_MAPPED
            if source.store.options["keep"] == "all" and count > 3 and is_small:
                take(f"layer-{number}", f"{start}/map?quantity={quantity}")
    pairs = [(number, concept) for number, concepts in chosen.items() for concept in concepts]
    for number, concept in tqdm(pairs, desc="concepts", disable=not verbose):
        file, start = f"concept-{number}-{concept}", f"{base}/layers/{number}"
        take(file, f"{start}/concepts/{concept}/neighbours")
        for quantity in QUANTITIES:
            page = take(file, f"{start}/concepts/{concept}?quantity={quantity}")
            for group in json.loads(page.content)["references"]:
                others += group["samples"]
            query = f"concepts={concept}&quantity={quantity}&k={references}"
            if source.kind == "texts":
                take(file, f"{start}/snippets?concepts={concept}&quantity={quantity}&k=4")
                take(file, f"{start}/snippets?concepts={concept}&quantity={quantity}&k=20")
                take(file, f"{start}/concepts/{concept}/words?quantity={quantity}")
            for kind in kinds:
                take(file, f"{start}/sprite?{query}&kind={kind}&size={CELL}")
            if kinds and (first := json.loads(page.content)["references"][0]["samples"][:1]):
                take(file, f"{base}/inputs/{first[0]}/manipulated?units={number}:{concept}:scale:0")
                if len(pairs) == 1:
                    take(file, f"{base}/inputs/{first[0]}/layers/{number}/concepts/{concept}/graph")
    _take_patterns(source, take, shown, None if of_pattern is None else [of_pattern])
    if chosen:
        take("neurons", f"{base}/rankings")
    for quantity in QUANTITIES:
        take("rows", f"{base}/rows?quantity={quantity}")
    for i, sample in enumerate(tqdm(samples[:MOST_PAGES], desc="samples", disable=not verbose)):
        for quantity in QUANTITIES:
            take(f"sample-{sample}", f"{base}/samples/{sample}?quantity={quantity}")
        take(f"sample-{sample}", f"{base}/inputs/{sample}/picture")
        if source.fv is not None and source.kind == "pictures" and i < MOST_EXPLAINED:
            take(f"sample-{sample}", f"{base}/inputs/{sample}/explained")
    known = sorted(dict.fromkeys([*shown, *others][:MOST_PICTURES]))
    if pictures.are_there and source.kind == "pictures":
        side = math.isqrt(SHEET)
        for first in range(0, len(known), SHEET):
            sheet = pictures.sheet(known[first:first + SHEET], BLOCK_CELL, side)
            copy.pictures[f"data/sheet-{first // SHEET}.webp"] = sheet
    copy.add("store", "/export", Answer(200, "application/json", "", json.dumps({
        "concepts": chosen, "samples": known, "sheet": SHEET, "cell": BLOCK_CELL,
        "references": references, "size": CELL,
    }).encode()))
    return copy


def _take_patterns(
    source: Source, take: Callable[..., Answer], shown: dict[int, None], only: list[tuple[int, str]] | None
) -> None:
    """Patterns that the store keeps, with their samples and box plots."""
    pairs = [(number, quantity) for number in range(len(source.store.layers)) for quantity in QUANTITIES]
    for number, quantity in pairs if only is None else only:
        start = f"/api/{source.key}/layers/{number}"
        if source.store.options["keep"] == "top":
            continue
        take(f"patterns-{number}", f"{start}/patterns?quantity={quantity}")
        take(f"patterns-{number}", f"{start}/points?quantity={quantity}")
        found = source.patterns(source.layer(number), quantity)
        if found is None:
            continue
        take(f"patterns-{number}", f"{start}/patterns/rows?quantity={quantity}")
        for pattern in range(-1, len(found)):
            take(f"patterns-{number}", f"{start}/patterns/boxes?pattern={pattern}&quantity={quantity}")
        for pattern in range(len(found)):
            rows = np.concatenate([found.most_stable(pattern, STABLE), found.least_stable(pattern, STABLE)])
            shown |= dict.fromkeys(found.samples[rows].tolist())
            if source.fv is not None and source.kind == "pictures":
                take(f"patterns-{number}", f"{start}/patterns/{pattern}/average?quantity={quantity}")


def _page(copy: Copy | None = None, place: str = "") -> str:
    """The page; with a copy, one that holds all."""
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>crp explorer</title>\n'
        f'<meta name="generator" content="crp {__version__}">\n'
    )
    if copy is None:
        return head + (
            '<link rel="stylesheet" href="explorer.css">\n</head>\n<body>\n'
            '<div id="explorer" class="explorer"></div>\n<script src="explorer.js"></script>\n</body>\n</html>\n'
        )
    pictures = {
        name: f"data:image/webp;base64,{base64.b64encode(content).decode()}" for name, content in copy.pictures.items()
    }
    answers = {path: answer for found in copy.answers.values() for path, answer in found.items()}
    data = (
        f"crpExplorer.pictures = {_as_literal(pictures)};\ncrpExplorer.places = {_as_literal(copy.places)};\n"
        f"crpExplorer.add({_as_literal(answers)});\ncrpExplorer.first = {_as_literal(place)};\n"
    )
    return head + (
        f"<style>\n{styles()}\n</style>\n</head>\n<body>\n<div id=\"explorer\" class=\"explorer\"></div>\n"
        f"<script>\n{_script(data)}</script>\n</body>\n</html>\n"
    )


def _script(data: str = "") -> str:
    """The pages' modules as one script that needs no server."""
    return as_script("embedded.js", (
        'const crpExplorer = window.crpExplorer = modules["embedded.js"].embedded();\n'
        f'{data}crpExplorer.start(document.getElementById("explorer"));\n'
    ))


def _as_literal(value: Any) -> str:
    """JSON that can stand in a script, also in one within a page."""
    told = json.dumps(value, separators=(",", ":"))
    return told.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _written(folder: Path, files: dict[str, bytes]) -> list[Path]:
    """Write files into a folder that appears whole or not at all."""
    unfinished = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        for name, content in files.items():
            path = unfinished / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return [folder / name for name in files]
