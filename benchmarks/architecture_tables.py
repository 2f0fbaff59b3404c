"""Where relevance goes in common architectures, without canonizers: tables of docs/any_model.md.

``python benchmarks/architecture_tables.py timm`` writes one of them.
"""
from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator

import families_of_timm
import families_of_torchvision
import families_of_transformers
from architectures import (
    CONVOLUTIONAL,
    HUGGING_FACE,
    TRANSFORMERS_OF_IMAGES,
    audit,
    hugging_face_model,
    torchvision_model,
)
from pages import write_table

from crp.attribution import Audit

FAMILIES = {
    "torchvision": families_of_torchvision.FAMILIES, "timm": families_of_timm.FAMILIES,
    "transformers": families_of_transformers.FAMILIES,
}
SINKS = {"biases": "biases", "parameters": "parameters as data", "softmax": "softmax", "empty": "empty sums",
         "stabilizers": "stabilizers"}


def audits(table: str) -> Iterator[tuple[str, Audit]]:
    """Each architecture of a table with its audit."""
    if table in FAMILIES:
        for name, build in FAMILIES[table].items():
            model, _, described = name.partition(", ")
            yield f"`{model}`" + (described and f", {described}"), audit(*build())
        return
    for name in (*CONVOLUTIONAL, *TRANSFORMERS_OF_IMAGES):
        yield f"torchvision `{name}`", audit(*torchvision_model(name))
    for name in HUGGING_FACE:
        for attention in ("eager", "sdpa"):
            yield f"transformers {name}, {attention}", audit(*hugging_face_model(name, attention))


def row(name: str, found: Audit) -> str:
    """A line of a table; operations that create or lose relevance are named beside the sum."""
    remainders = sum(amount for sink, amount in found.sinks.items() if sink.startswith("remainder"))
    amounts = [found.total, *(found.sinks[sink] for sink in SINKS), remainders]
    named = ", ".join(sorted({f"`{fault.operation}`" for fault in found.faults}))
    together = f"{found.accounted:.5f}" + (named and f" ({named})")
    cells = [name, *(f"{amount:.3f}" for amount in amounts), together, str(len(found.operations))]
    return f"| {' | '.join(cells)} |"


def write(table: str) -> None:
    """Print a table and write it into the documentation."""
    header = ["architecture", "input", *SINKS.values(), "remainders", "together", "operations"]
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    for name, found in audits(table):
        lines.append(row(name, found))
        print(lines[-1], flush=True)
    write_table("any_model.md", "architectures" if table == "common" else f"families of {table}", "\n".join(lines))


def main() -> None:
    """Write the tables that are named on the command line, or all."""
    warnings.simplefilter("ignore")
    for table in sys.argv[1:] or ["common", *FAMILIES]:
        write(table)


if __name__ == "__main__":
    main()
