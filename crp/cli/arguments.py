"""Arguments that commands share, and what their texts mean."""
from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """A positive number."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def not_negative(text: str) -> int:
    """A number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return int(text)


def shard(text: str) -> tuple[int, int] | None:
    """``I/N``."""
    from crp.cli.runs import parse_shard

    try:
        return parse_shard(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_store(parser: argparse.ArgumentParser) -> None:
    """The folder of a store."""
    parser.add_argument("store", metavar="STORE", help="the folder of a sweep")


def add_question(parser: argparse.ArgumentParser) -> None:
    """What all questions about a layer have."""
    add_store(parser)
    parser.add_argument("--layer", required=True, metavar="NAME", help="the layer; crp info lists them")
    add_quantity(parser)
    add_json(parser)


def add_quantity(parser: argparse.ArgumentParser) -> None:
    """Relevance or activation."""
    parser.add_argument(
        "--quantity", choices=["relevance", "activation"], default="relevance", help="of which matrix "
        "(default: relevance)",
    )


def add_class_names(parser: argparse.ArgumentParser) -> None:
    """A file of names."""
    parser.add_argument("--class-names", metavar="FILE", help="a text file with a class name per line, from class 0 on")


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print the answer as JSON, and nothing else")


def draw_into_files() -> None:
    """Let no window be needed for pictures."""
    import matplotlib

    matplotlib.use("Agg")
