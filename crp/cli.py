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
    options = parser.parse_args(arguments)

    import matplotlib

    matplotlib.use("Agg")
    from crp.demo.story import run_demo

    run_demo(options.out)
