"""The command line: ``crp`` or ``python -m crp``."""
from __future__ import annotations

import argparse

from crp import __version__


def main(arguments: list[str] | None = None) -> None:
    """Run a command.

    Parameters
    ----------
    arguments : list of str, optional
        By default those of the process.
    """
    parser = argparse.ArgumentParser(prog="crp", description="Concept attribution for PyTorch models.")
    parser.add_argument("--version", action="version", version=f"crp {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="train a small network on digits and show what it has learned, in pictures")
    demo.add_argument("--out", default="crp-demo", metavar="FOLDER", help="where the pictures go (default: crp-demo)")
    patterns = commands.add_parser("patterns", help="find and draw the patterns of the layers in a store")
    _add_store_arguments(patterns)
    patterns.add_argument("--min-pattern-size", type=int, default=5, metavar="N", help="rows that make a pattern")
    patterns.add_argument("--min-samples", type=int, default=5, metavar="N", help="neighbours that make a row a core")
    patterns.add_argument("--method", choices=["leaf", "eom"], default="leaf", help="which clusters are patterns")
    maps = commands.add_parser("maps", help="draw topographic maps and response maps of the layers in a store")
    _add_store_arguments(maps)
    maps.add_argument("--method", choices=["tsne", "umap", "pca"], default="tsne", help="how channels are laid out")
    options = parser.parse_args(arguments)

    import matplotlib

    matplotlib.use("Agg")
    if options.command == "demo":
        from crp.demo.story import run_demo

        run_demo(options.out)
    else:
        try:
            _report(options)
        except (ValueError, ImportError) as error:
            parser.exit(1, f"crp {options.command}: {error}\n")


def _add_store_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="the folder of a finished sweep")
    parser.add_argument("--layer", action="append", metavar="NAME", help="a layer; may be repeated (default: all)")
    parser.add_argument("--quantity", choices=["activation", "relevance"], default="activation")
    parser.add_argument("--out", metavar="FOLDER", help="where the pictures go (default: crp-patterns or crp-maps)")


def _report(options: argparse.Namespace) -> None:
    from crp.reports import report_maps, report_patterns
    from crp.store import ReferenceStore

    arguments = ReferenceStore(options.store), options.out or f"crp-{options.command}", options.layer, options.quantity
    if options.command == "patterns":
        lines = report_patterns(
            *arguments, min_pattern_size=options.min_pattern_size, min_samples=options.min_samples,
            method=options.method,
        )
    else:
        lines = report_maps(*arguments, options.method)
    for line in lines:
        print(line)
