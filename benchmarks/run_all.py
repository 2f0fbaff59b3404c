"""Runs every benchmark and writes the table: ``make bench``.

The table goes into the README, between two comments.
"""
from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from readme import write_into_readme

FOLDER = Path(__file__).parent
SCRIPTS = [
    "lrp_pass", "transformer_pass", "generate", "attribution_graph", "references", "sweep_last_block",
    "sweep_all_layers", "sweep_small", "sweep_memory", "store_queries", "patterns", "rank_correlation",
]


def rows_of(script: str) -> list[dict]:
    """Run a script and return the rows that it prints."""
    print(f"{script} ...", flush=True)
    run = subprocess.run(
        [sys.executable, FOLDER / f"{script}.py"], stdout=subprocess.PIPE, text=True, check=True, cwd=FOLDER
    )
    print(run.stdout, flush=True)
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


def table(rows: list[dict]) -> str:
    """The rows in Markdown."""
    lines = ["| work | over | measured | lowest to highest | to reach |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        digits = 0 if row["unit"] == "ms" and row["measured"] >= 10 else 2
        unit = row["unit"] and f" {row['unit']}"
        low, high = (f"{value:.{digits}f}" for value in row["spread"])
        lines.append(f"| {row['work']} | {row['over']} | {row['measured']:.{digits}f}{unit} | {low} to {high} | "
                     f"{row['reach']}{unit} |")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "zennit", "numpy"))
    largest = max(row["deviation"] for row in rows)
    return "\n".join([
        *lines, "",
        f"Measured on {os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}, "
        f"{versions}; medians. Each script also compares results: they differ by {largest:.0e} of their maximum at "
        "most.",
    ])


def main() -> None:
    """Run the scripts named on the command line, or all, and write the table if all have run."""
    scripts = sys.argv[1:] or SCRIPTS
    text = table([row for script in scripts for row in rows_of(script)])
    print(text)
    if scripts == SCRIPTS:
        write_into_readme("benchmarks", text)


if __name__ == "__main__":
    main()
