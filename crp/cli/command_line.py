"""The command line: ``crp`` or ``python -m crp``.

Exit codes: 0 if all is well, 1 if something is wrong (standard error says what), 2 for arguments that make no sense.
"""
from __future__ import annotations

import argparse
import json
import math
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from crp import __version__
from crp.cli.terminal import print_lines, printable_message, printable_warnings

if TYPE_CHECKING:
    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="crp", description="Concept attribution for PyTorch models.")
    parser.add_argument("--version", action="version", version=f"crp {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (_add_demo, _add_run, _add_merge, _add_info, _add_verify, _add_export, _add_patterns, _add_maps):
        add(commands)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run a command.

    Parameters
    ----------
    arguments : list of str, optional
        By default those of the process.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        with printable_warnings():
            options.function(options)
    except (ValueError, TypeError, RuntimeError, ImportError, OSError) as error:
        parser.exit(1, printable_message(f"crp {options.command}: {error}") + "\n")
    except KeyboardInterrupt:
        parser.exit(_INTERRUPTED, f"crp {options.command}: interrupted\n")


_INTERRUPTED = 128 + signal.SIGINT  # as shells have it


def _add_demo(commands: Commands) -> None:
    demo = commands.add_parser(
        "demo", help="train a small network on digits and show what it has learned, in pictures"
    )
    demo.add_argument("--out", default="crp-demo", metavar="FOLDER", help="where the pictures go (default: crp-demo)")
    demo.set_defaults(function=_demo)


def _demo(options: argparse.Namespace) -> None:
    from crp.demo.story import run_demo

    _draw_into_files()
    run_demo(options.out)


def _add_run(commands: Commands) -> None:
    run = commands.add_parser(
        "run", help="sweep a dataset into a store", description="Sweep a dataset into a store. Broken off, the same "
        "command goes on after the last finished shard. The file or module that says what to sweep is executed, also "
        "with --dry-run: run only what you trust.",
    )
    run.add_argument(
        "spec", metavar="SPEC", help="file.py (its function sweep), file.py:function or module:function; it gives a "
        "dict with model, dataset, layers and composite",
    )
    run.add_argument("--store", metavar="FOLDER", help="folder of the store (default: as specified)")
    run.add_argument("--start", type=int, default=0, metavar="N", help="first sample (default: 0)")
    run.add_argument("--stop", type=int, metavar="N", help="sample after the last (default: length of the dataset)")
    run.add_argument("--batch-size", type=_positive, default=32, metavar="N", help="samples per batch (default: 32)")
    run.add_argument("--checkpoint", type=_positive, default=500, metavar="N", help="batches per shard (default: 500)")
    run.add_argument("--num-workers", type=int, default=0, metavar="N", help="processes that read the dataset")
    run.add_argument("--workers", type=int, default=0, metavar="N", help="processes that share the sweep")
    run.add_argument("--threads", type=_positive, metavar="N", help="threads of each process")
    run.add_argument("--on-error", choices=["raise", "skip"], default="raise", help="what to do about broken samples")
    run.add_argument("--keep", choices=["all", "top"], default="all", help="top: tables and class means only")
    run.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="of the matrices")
    run.add_argument(
        "--shard", metavar="I/N", type=_shard, help="write every N-th shard, from the I-th on (from 0), for crp merge "
        "to finish (default: the task of the SLURM array that runs this, if any)",
    )
    run.add_argument("--overwrite", action="store_true", help="replace what another sweep left in the folder")
    run.add_argument("--dry-run", action="store_true", help="say what it would take, by a batch, and write nothing")
    _add_json(run)
    run.set_defaults(function=_run)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def _shard(text: str) -> tuple[int, int] | None:
    from crp.cli.runs import parse_shard

    try:
        return parse_shard(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _run(options: argparse.Namespace) -> None:
    import torch

    from crp.cli.runs import parse_shard, run

    shard = parse_shard(None) if options.shard is None else options.shard
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    how = {name: getattr(options, name) for name in
           ("batch_size", "checkpoint", "num_workers", "on_error", "keep", "dtype")}
    found = run(
        options.spec, store=options.store, start=options.start, stop=options.stop, shard=shard,
        workers=options.workers, overwrite=options.overwrite, dry_run=options.dry_run, **how,
    )
    _print(found, options.json, _estimate_in_words if options.dry_run else _info_in_words)


def _add_merge(commands: Commands) -> None:
    merge = commands.add_parser("merge", help="finish a store whose shards are all there")
    _add_store(merge)
    merge.add_argument("--start", type=int, default=0, metavar="N", help="first sample that must be there")
    merge.add_argument("--stop", type=int, metavar="N", help="sample after the last (default: length of the dataset)")
    _add_json(merge)
    merge.set_defaults(function=_merge)


def _merge(options: argparse.Namespace) -> None:
    from crp.cli.runs import merge

    _print(merge(options.store, options.start, options.stop), options.json, _info_in_words)


def _add_info(commands: Commands) -> None:
    info = commands.add_parser("info", help="say what a store holds, finished or not")
    _add_store(info)
    _add_json(info)
    info.set_defaults(function=_info)


def _info(options: argparse.Namespace) -> None:
    from crp.cli.runs import info

    _print(info(options.store), options.json, _info_in_words)


def _add_verify(commands: Commands) -> None:
    verify = commands.add_parser("verify", help="compare every byte of a store with the hashes in its records")
    _add_store(verify)
    _add_json(verify)
    verify.set_defaults(function=_verify)


def _verify(options: argparse.Namespace) -> None:
    from crp.store import verify

    problems = verify(options.store)
    _print({"store": options.store, "problems": problems}, options.json,
           lambda found: found["problems"] or [f"{options.store} is sound"])
    if problems:
        sys.exit(1)


def _add_export(commands: Commands) -> None:
    export = commands.add_parser("export", help="copy a store for other programs")
    _add_store(export)
    kind = export.add_mutually_exclusive_group(required=True)
    kind.add_argument("--zarr", metavar="FOLDER", help="one group per layer, for xarray")
    kind.add_argument("--parquet", metavar="FOLDER", help="one file per layer and quantity")
    export.set_defaults(function=_export)


def _export(options: argparse.Namespace) -> None:
    from crp.store import ReferenceStore, export_parquet, export_zarr

    store = ReferenceStore(options.store)
    items = export_zarr(store, options.zarr) if options.zarr else export_parquet(store, options.parquet)
    print_lines(map(str, items))


def _add_patterns(commands: Commands) -> None:
    patterns = commands.add_parser("patterns", help="find and draw the patterns of the layers in a store")
    _add_report_arguments(patterns)
    patterns.add_argument("--min-pattern-size", type=int, default=5, metavar="N", help="rows that make a pattern")
    patterns.add_argument("--min-samples", type=int, default=5, metavar="N", help="neighbours that make a row a core")
    patterns.add_argument("--method", choices=["leaf", "eom"], default="leaf", help="which clusters are patterns")
    patterns.set_defaults(function=_report)


def _add_maps(commands: Commands) -> None:
    maps = commands.add_parser("maps", help="draw topographic maps and response maps of the layers in a store")
    _add_report_arguments(maps)
    maps.add_argument("--method", choices=["tsne", "umap", "pca"], default="tsne", help="how channels are laid out")
    maps.set_defaults(function=_report)


def _add_report_arguments(parser: argparse.ArgumentParser) -> None:
    _add_store(parser)
    parser.add_argument("--layer", action="append", metavar="NAME", help="a layer; may be repeated (default: all)")
    parser.add_argument("--quantity", choices=["activation", "relevance"], default="activation", help="of which matrix")
    parser.add_argument("--out", metavar="FOLDER", help="where the pictures go (default: crp-patterns or crp-maps)")


def _report(options: argparse.Namespace) -> None:
    from crp.cli.reports import report_maps, report_patterns
    from crp.store import ReferenceStore

    _draw_into_files()
    arguments = ReferenceStore(options.store), options.out or f"crp-{options.command}", options.layer, options.quantity
    if options.command == "patterns":
        lines = report_patterns(
            *arguments, min_pattern_size=options.min_pattern_size, min_samples=options.min_samples,
            method=options.method,
        )
    else:
        lines = report_maps(*arguments, options.method)
    print_lines(lines)


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="the folder of a sweep")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _draw_into_files() -> None:
    import matplotlib

    matplotlib.use("Agg")


def _print(found: dict[str, Any], as_json: bool, in_words: Callable[[dict[str, Any]], list[str]]) -> None:
    print_lines([json.dumps(found)] if as_json else in_words(found))


def _info_in_words(info: dict[str, Any]) -> list[str]:
    ranges = ", ".join(f"{first} to {stop - 1}" for first, stop in info["ranges"][:6])
    ranges += f" and {len(info['ranges']) - 6} more ranges" if len(info["ranges"]) > 6 else ""
    options = ", ".join(f"{name} {value}" for name, value in info["options"].items())
    return [
        f"{info['store']}: {'finished' if info['finished'] else 'not finished'}",
        f"samples: {info['samples']:,} of {info['of']:,}" + (f" ({ranges})" if ranges else ""),
        f"skipped: {len(info['skipped'])}", *(f"  {i}: {why}" for i, why in info["skipped"].items()),
        f"layers: {', '.join(f'{name} ({count})' for name, count in info['layers'].items())}",
        f"size: {_size(info['bytes'])} in {info['shards']} shards",
        f"model: {info['model']}; composite: {info['composite']}",
        f"options: {options}", *(f"note: {note}" for note in info["notes"]),
    ]


def _estimate_in_words(found: dict[str, Any]) -> list[str]:
    layers = ", ".join(f"{name} ({count})" for name, count in found["layers"].items())
    return [
        f"store: {found['store']}", f"samples: {found['samples']:,}",
        f"shards: {found['shards']} of {found['shards_of_all']}", f"concepts: {found['concepts']:,} in {layers}",
        f"space: {_size(found['bytes'])} of {_size(found['free_bytes'])} that are free",
        f"time: about {_duration(found['seconds'])} in one process, by one batch",
    ]


def _size(count: float) -> str:
    power = min(int(math.log10(max(count, 1)) / 3), 4)
    return f"{count / 1000 ** power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.3g} s" if seconds < 100 else f"{minutes:.3g} minutes" if minutes < 100 else f"{hours:.3g} hours"
