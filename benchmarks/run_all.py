"""Runs every benchmark and writes the table of docs/speed.md: ``make bench``.

``python benchmarks/run_all.py lrp_pass generate`` runs some of them and replaces their rows.
"""
from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from pages import read_table, write_table

FOLDER = Path(__file__).parent
SCRIPTS = [
    "lrp_pass", "transformer_pass", "general_rule", "generate", "attribution_graph", "references", "sweep_last_block",
    "sweep_all_layers", "sweep_small", "sweep_memory", "sweep_scale", "store_queries", "patterns", "rank_correlation",
    "ablation",
]


def rows_of(script: str) -> list[dict]:
    """Run a script and return the rows that it prints."""
    print(f"{script} ...", flush=True)
    run = subprocess.run(
        [sys.executable, FOLDER / f"{script}.py"], stdout=subprocess.PIPE, text=True, check=True, cwd=FOLDER
    )
    print(run.stdout, flush=True)
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


def line(row: dict) -> str:
    """A row in Markdown."""
    digits = 0 if row["unit"] == "ms" and row["measured"] >= 10 else 2
    unit = row["unit"] and f" {row['unit']}"
    low, high = (f"{value:.{digits}f}" for value in row["spread"])
    return (f"| {row['work']} | {row['over']} | {row['measured']:.{digits}f}{unit} | {low} to {high} | "
            f"{row['reach']}{unit} |")


def table(rows: list[dict], before: str) -> str:
    """The rows in Markdown; lines of the table before that are of other work stay."""
    known = [text for text in before.splitlines() if text.startswith("|")]
    found = {_work(text): text for text in [*known[2:], *map(line, rows)]}
    lines = [
        "| work | over | measured | lowest to highest | to reach |", "| --- | --- | --- | --- | --- |", *found.values()
    ]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "zennit", "numpy"))
    largest = max([0., *(row["deviation"] for row in rows), *map(float, re.findall(r"differ by (\S+) of", before))])
    return "\n".join([
        *lines, "",
        f"Measured on {os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}, "
        f"{versions}; medians. Each script also compares results: they differ by {largest:.0e} of their maximum at "
        "most.",
    ])


def _work(text: str) -> tuple[str, ...]:
    """What a line is about: its first two cells."""
    return tuple(cell.strip() for cell in text.split("|")[1:3])


def main() -> None:
    """Run the scripts named on the command line, or all, and write their rows."""
    scripts = sys.argv[1:]
    before = read_table("speed.md", "benchmarks") if scripts else ""
    text = table([row for script in scripts or SCRIPTS for row in rows_of(script)], before)
    print(text)
    write_table("speed.md", "benchmarks", text)


if __name__ == "__main__":
    main()
