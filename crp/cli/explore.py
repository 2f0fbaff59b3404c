"""The explorer, started from the command line."""
from __future__ import annotations

import argparse
import gc
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from crp.cli.arguments import add_class_names, add_json, positive

if TYPE_CHECKING:
    from crp.cli.answers import Explored
    from crp.explorer.copies import Subject
    from crp.explorer.source import Source

    Commands: TypeAlias = argparse._SubParsersAction[Any]

_OBJECTS = 50_000
MISSING = "the explorer needs FastAPI and uvicorn: pip install 'crp-concepts[explorer]'"


def add_explore(commands: Commands) -> None:
    """``crp explore``."""
    explore = commands.add_parser(
        "explore", help="look at stores in a browser", description="Look at stores in a browser, offline. Of a store "
        "alone, all is shown that needs no model. Of what was swept (as for crp run), pictures, heatmaps and "
        "experiments too; the file or module that says what was swept is executed: run only what you trust.",
    )
    explore.add_argument(
        "what", nargs="+", metavar="STORE|SPEC", help="folders of sweeps; or what was swept: file.py, file.py:function "
        "or module:function",
    )
    explore.add_argument("--store", metavar="FOLDER", help="folder of the store of SPEC (default: as specified)")
    explore.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on; others than this machine's own "
        "ask for a token (default: 127.0.0.1)",
    )
    explore.add_argument("--port", type=positive, metavar="N", help="port (default: the first free one from 8765 on)")
    explore.add_argument(
        "--keep-pictures", action="store_true", help="keep small pictures of the samples of SPEC in its store first, "
        "for those who have only that",
    )
    explore.add_argument("--open", action="store_true", help="open a browser")
    add_class_names(explore)
    explore.add_argument(
        "--export", metavar="FOLDER", help="write a copy that opens from disk, without a server; with --concept, "
        "--sample or --pattern: one HTML file",
    )
    explore.add_argument(
        "--concepts", type=positive, default=1000, metavar="N", help="concepts of a copy, of all layers (default: 1000)"
    )
    explore.add_argument(
        "--references", type=positive, default=8, metavar="N", help="samples of each concept of a copy, at most 8 "
        "(default: 8)"
    )
    page = explore.add_mutually_exclusive_group()
    page.add_argument("--concept", metavar="LAYER:ID", help="export the page of this concept")
    page.add_argument("--sample", metavar="N", help="export the page of this sample")
    page.add_argument("--pattern", metavar="LAYER:N", help="export this pattern, by --quantity")
    explore.add_argument(
        "--quantity", choices=["relevance", "activation"], default="relevance", help="of a page that is exported "
        "(default: relevance)",
    )
    add_json(explore)
    explore.set_defaults(function=_explore)


def _explore(options: argparse.Namespace) -> Explored:
    if not (find_spec("fastapi") and find_spec("uvicorn")):
        raise ImportError(MISSING)
    gc.set_threshold(_OBJECTS)  # else looking for garbage takes a fifth of the time of what is imported below
    from crp.cli.answers import Explored

    if options.export is None and (options.concept or options.sample or options.pattern):
        raise ValueError("a page goes into a file: give --export FILE.html")
    sources = [_source(what, options) for what in options.what]
    if options.keep_pictures:
        from crp.explorer.pictures import Pictures

        for source in sources:
            source.need_model()
            _tell(f"{Pictures(source).keep()} pictures are kept in {source.store.path}")
    address, written = None, list[Path]()
    if options.export is None:
        from crp.explorer.serving import serve

        address = serve(sources, options.host, options.port, options.open, _tell)
    else:
        written = _written(sources, options)
    return Explored(
        stores=[source.store.path for source in sources], address=address, written=list(map(str, written[:1])),
        bytes=sum(path.stat().st_size for path in written),
    )


def _written(sources: list[Source], options: argparse.Namespace) -> list[Path]:
    """The files of a copy."""
    from crp.explorer.copies import export, export_page

    if len(sources) > 1:
        raise ValueError("a copy is of one store")
    if options.concept or options.sample or options.pattern:
        subject = _subject(sources[0], options)
        return export_page(sources[0], options.export, subject, options.references, report=_tell)
    return export(sources[0], options.export, options.concepts, options.references, report=_tell)


def _tell(text: str) -> None:
    """Say something at once, where it is not part of the answer."""
    print(text, file=sys.stderr, flush=True)


def _source(what: str, options: argparse.Namespace) -> Source:
    """A store, if there is a folder of that name; otherwise what was swept."""
    from crp.cli.questions import ClassNames
    from crp.explorer.source import Source

    class_names = ClassNames(options.class_names).all
    if Path(what).is_dir():
        if options.store is not None:
            raise ValueError(f"{what} is a store already; --store is for what was swept")
        return Source.of(what, None, class_names)
    if ".py" not in what and ":" not in what:
        raise ValueError(f"there is no folder {what}; and what was swept is named as file.py, file.py:function or "
                         "module:function")
    from crp.cli.runs import specified_visualization

    return Source.of(*specified_visualization(what, options.store), class_names)


def _subject(source: Source, options: argparse.Namespace) -> Subject:
    """What a page is of."""
    if options.sample is not None:
        return "sample", len(source.store.layers) - 1, options.quantity, _number(options.sample, "--sample", "N")
    kind, told = ("concept", options.concept) if options.concept is not None else ("pattern", options.pattern)
    layer, _, number = told.rpartition(":")
    if not layer:
        raise ValueError(f"--{kind} is LAYER:N, the name of a layer and a number, not {told!r}")
    source.store.entry(layer)  # says which layers there are
    found = _number(number, f"--{kind}", "LAYER:N")
    return ("concept" if kind == "concept" else "pattern"), source.store.layers.index(layer), options.quantity, found


def _number(text: str, flag: str, form: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{flag} is {form}, with a number, not {text!r}")
    return int(text)
