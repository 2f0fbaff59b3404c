"""The command line: ``crp`` or ``python -m crp``.

Exit codes: 0 if all is well, 1 if something is wrong (standard error says what), 2 for arguments that make no sense.
With ``--json`` standard output holds nothing but the answer, or a :class:`crp.cli.answers.Failure`.
"""
from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from crp import __version__
from crp.cli.arguments import (
    add_class_names,
    add_json,
    add_quantity,
    add_question,
    add_store,
    draw_into_files,
    not_negative,
    positive,
    shard,
)
from crp.cli.explore import add_explore
from crp.cli.terminal import in_flags, nothing_on_standard_output, print_lines, printable_message, printable_warnings
from crp.cli.unit_commands import add_ablate, add_rank, add_trust

if TYPE_CHECKING:
    from crp.cli.answers import Answer, Conservation, DemoPage, Estimate, Export, StoreInfo, Verification
    from crp.cli.concept_answers import Classes, Concepts, References

    Commands: TypeAlias = argparse._SubParsersAction[Any]

INTERRUPTED = 128 + signal.SIGINT  # as shells have it
ERRORS = ValueError, TypeError, IndexError, RuntimeError, ImportError, OSError


class _NoSenseError(Exception):
    """Arguments that make no sense."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _NoSenseError(f"{self.format_usage()}{self.prog}: error: {message}")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(prog="crp", description="Concept attribution for PyTorch models.")
    parser.add_argument("--version", action="version", version=f"crp {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (
        _add_demo, _add_run, _add_merge, _add_audit, _add_info, _add_verify, _add_export, _add_concepts, _add_classes,
        _add_references, _add_patterns, _add_maps, add_rank, add_ablate, add_trust, add_explore,
    ):
        add(commands)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run a command.

    Parameters
    ----------
    arguments : list of str, optional
        By default those of the process.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = build_parser().parse_args(arguments)
    except _NoSenseError as error:
        _fail(str(error), 2, "--json" in arguments)
    as_json = options.json
    try:
        with printable_warnings(), nothing_on_standard_output() if as_json else nullcontext():
            answer = options.function(options)
    except ERRORS as error:
        _fail(f"crp {options.command}: {_told(error, vars(options))}", 1, as_json)
    except KeyboardInterrupt:
        _fail(f"crp {options.command}: interrupted", INTERRUPTED, as_json)
    print_lines([answer.as_json()] if as_json else answer.in_words())
    if answer.exit_code:
        sys.exit(answer.exit_code)


def _told(error: Exception, options: Mapping[str, Any]) -> str:
    from crp.cli.specs import SpecError

    return str(error) if isinstance(error, SpecError) else in_flags(str(error), options)


def _fail(message: str, code: int, as_json: bool) -> NoReturn:
    from crp.cli.answers import Failure

    print(printable_message(message), file=sys.stderr)
    if as_json:
        print_lines([Failure(error=message, code=code).as_json()])
    sys.exit(code)


def _add_demo(commands: Commands) -> None:
    demo = commands.add_parser(
        "demo", help="train a small network on digits and show what it has learned, in pictures"
    )
    demo.add_argument("--out", default="crp-demo", metavar="FOLDER", help="where the pictures go (default: crp-demo)")
    add_json(demo)
    demo.set_defaults(function=_demo)


def _demo(options: argparse.Namespace) -> DemoPage:
    from crp.cli.answers import DemoPage
    from crp.demo.run import run_demo

    draw_into_files()
    return DemoPage.model_validate(run_demo(options.out)._asdict())


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
    run.add_argument("--batch-size", type=positive, default=32, metavar="N", help="samples per batch (default: 32)")
    run.add_argument("--checkpoint", type=positive, default=500, metavar="N", help="batches per shard (default: 500)")
    run.add_argument("--num-workers", type=int, default=0, metavar="N", help="processes that read the dataset")
    run.add_argument("--workers", type=int, default=0, metavar="N", help="processes that share the sweep")
    run.add_argument("--threads", type=positive, metavar="N", help="threads of each process")
    run.add_argument("--on-error", choices=["raise", "skip"], default="raise", help="what to do about broken samples")
    run.add_argument("--keep", choices=["all", "top"], default="all", help="top: tables and class means only")
    run.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="of the matrices")
    run.add_argument(
        "--rows", choices=["samples", "positions"], default="samples", help="positions: a row for each, such as a token"
    )
    run.add_argument(
        "--shard", metavar="I/N", type=shard, help="write every N-th shard, from the I-th on (from 0), for crp merge "
        "to finish (default: the task of the SLURM array that runs this, if any)",
    )
    run.add_argument("--overwrite", action="store_true", help="replace what another sweep left in the folder")
    run.add_argument("--dry-run", action="store_true", help="say what it would take, by a batch, and write nothing")
    add_json(run)
    run.set_defaults(function=_run)





def _run(options: argparse.Namespace) -> StoreInfo | Estimate:
    import torch

    from crp.cli.runs import parse_shard, run

    of_array = parse_shard(None) if options.shard is None else options.shard
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    how = {name: getattr(options, name) for name in
           ("batch_size", "checkpoint", "num_workers", "on_error", "keep", "dtype", "rows")}
    return run(
        options.spec, store=options.store, start=options.start, stop=options.stop, shard=of_array,
        workers=options.workers, overwrite=options.overwrite, dry_run=options.dry_run, **how,
    )


def _add_merge(commands: Commands) -> None:
    merge = commands.add_parser("merge", help="finish a store whose shards are all there")
    add_store(merge)
    merge.add_argument("--start", type=int, default=0, metavar="N", help="first sample that must be there")
    merge.add_argument("--stop", type=int, metavar="N", help="sample after the last (default: length of the dataset)")
    add_json(merge)
    merge.set_defaults(function=_merge)


def _merge(options: argparse.Namespace) -> StoreInfo:
    from crp.cli.runs import merge

    return merge(options.store, options.start, options.stop)


def _add_audit(commands: Commands) -> None:
    audit = commands.add_parser(
        "audit", help="measure whether relevance is conserved in a model", description="Measure on a few samples, "
        "operation by operation, whether relevance is conserved on its way from the output to the input. The exit code "
        "is 1 if it is not. The file or module that says what to sweep is executed: run only what you trust.",
    )
    audit.add_argument("spec", metavar="SPEC", help="as for crp run")
    audit.add_argument("--start", type=int, default=0, metavar="N", help="first sample (default: 0)")
    audit.add_argument("--samples", type=positive, default=8, metavar="N", help="how many samples (default: 8)")
    add_json(audit)
    audit.set_defaults(function=_audit)


def _audit(options: argparse.Namespace) -> Conservation:
    from crp.cli.runs import audit

    return audit(options.spec, start=options.start, samples=options.samples)


def _add_info(commands: Commands) -> None:
    info = commands.add_parser("info", help="say what a store holds, finished or not")
    add_store(info)
    add_json(info)
    info.set_defaults(function=_info)


def _info(options: argparse.Namespace) -> StoreInfo:
    from crp.cli.runs import info

    return info(options.store)


def _add_verify(commands: Commands) -> None:
    verify = commands.add_parser("verify", help="compare every byte of a store with the hashes in its records")
    add_store(verify)
    add_json(verify)
    verify.set_defaults(function=_verify)


def _verify(options: argparse.Namespace) -> Verification:
    from crp.cli.answers import Verification
    from crp.store import verify

    problems = verify(options.store)
    return Verification(store=Path(options.store), sound=not problems, problems=problems)


def _add_export(commands: Commands) -> None:
    export = commands.add_parser("export", help="copy a store for other programs")
    add_store(export)
    kind = export.add_mutually_exclusive_group(required=True)
    kind.add_argument("--zarr", metavar="FOLDER", help="one group per layer, for xarray")
    kind.add_argument("--parquet", metavar="FOLDER", help="one file per layer and quantity")
    add_json(export)
    export.set_defaults(function=_export)


def _export(options: argparse.Namespace) -> Export:
    from crp.cli.answers import Export
    from crp.store import ReferenceStore, export_parquet, export_zarr

    store = ReferenceStore(options.store)
    written = export_zarr(store, options.zarr) if options.zarr else map(str, export_parquet(store, options.parquet))
    return Export(folder=Path(options.zarr or options.parquet), written=list(written))


def _add_concepts(commands: Commands) -> None:
    concepts = commands.add_parser(
        "concepts", help="say which concepts of a layer matter most, and which are dead", description="Say which "
        "concepts of a layer matter most in all classes, in a class or in a sample, which classes each serves, and "
        "which concepts are dead.",
    )
    add_question(concepts)
    concepts.add_argument("--target", type=not_negative, metavar="N", help="a class (default: all count alike)")
    concepts.add_argument("--sample", type=not_negative, metavar="N", help="a sample, by its place in the dataset")
    concepts.add_argument("--most", type=positive, default=10, metavar="N", help="how many concepts (default: 10)")
    add_class_names(concepts)
    concepts.set_defaults(function=_concepts)


def _concepts(options: argparse.Namespace) -> Concepts:
    from crp.cli.questions import ClassNames, rank_concepts
    from crp.store import ReferenceStore

    return rank_concepts(
        ReferenceStore(options.store), options.layer, options.quantity, ClassNames(options.class_names),
        target=options.target, sample=options.sample, most=options.most,
    )


def _add_classes(commands: Commands) -> None:
    classes = commands.add_parser("classes", help="say which classes a concept serves")
    add_question(classes)
    classes.add_argument("--concept", type=not_negative, required=True, metavar="ID", help="the concept")
    add_class_names(classes)
    classes.set_defaults(function=_classes)


def _classes(options: argparse.Namespace) -> Classes:
    from crp.cli.questions import ClassNames, classes_of_concept
    from crp.store import ReferenceStore

    return classes_of_concept(
        ReferenceStore(options.store), options.layer, options.concept, options.quantity,
        ClassNames(options.class_names),
    )


def _add_references(commands: Commands) -> None:
    references = commands.add_parser("references", help="say at which samples a concept is strongest, and where")
    add_question(references)
    references.add_argument("--concept", type=not_negative, required=True, metavar="ID", help="the concept")
    references.add_argument("--target", type=not_negative, metavar="N", help="only samples of this class")
    references.add_argument("--most", type=positive, default=8, metavar="N", help="how many samples (default: 8)")
    add_class_names(references)
    references.set_defaults(function=_references)


def _references(options: argparse.Namespace) -> References:
    from crp.cli.questions import ClassNames, references_of_concept
    from crp.store import ReferenceStore

    return references_of_concept(
        ReferenceStore(options.store), options.layer, options.concept, options.quantity,
        ClassNames(options.class_names), target=options.target, most=options.most,
    )


def _add_patterns(commands: Commands) -> None:
    patterns = commands.add_parser("patterns", help="find and draw the patterns of the layers in a store")
    _add_report_arguments(patterns)
    patterns.add_argument(
        "--min-pattern-size", type=int, default=5, metavar="N", help="rows that make a pattern (default: 5)"
    )
    patterns.add_argument(
        "--min-samples", type=int, default=5, metavar="N", help="neighbours that make a row a core (default: 5)"
    )
    patterns.add_argument(
        "--method", choices=["leaf", "eom"], default="leaf", help="which clusters are patterns (default: leaf)"
    )
    patterns.set_defaults(function=_report)


def _add_maps(commands: Commands) -> None:
    maps = commands.add_parser("maps", help="draw topographic maps and response maps of the layers in a store")
    _add_report_arguments(maps)
    maps.add_argument("--method", choices=["tsne", "umap", "pca"], default="tsne", help="how channels are laid out")
    maps.set_defaults(function=_report)


def _add_report_arguments(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    parser.add_argument("--layer", action="append", metavar="NAME", help="a layer; may be repeated (default: all)")
    add_quantity(parser)
    add_class_names(parser)
    parser.add_argument("--out", metavar="FOLDER", help="where the pictures go (default: crp-patterns or crp-maps)")
    add_json(parser)


def _report(options: argparse.Namespace) -> Answer:
    from crp.cli.questions import ClassNames
    from crp.cli.reports import report_maps, report_patterns
    from crp.store import ReferenceStore

    draw_into_files()
    arguments = (
        ReferenceStore(options.store), options.out or f"crp-{options.command}", options.layer, options.quantity,
        ClassNames(options.class_names),
    )
    if options.command == "maps":
        return report_maps(*arguments, options.method)
    return report_patterns(
        *arguments, min_pattern_size=options.min_pattern_size, min_samples=options.min_samples, method=options.method,
    )
