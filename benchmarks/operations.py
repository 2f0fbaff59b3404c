"""Whether the books close for each operation in PyTorch's table of them, by family: a table of docs/any_model.md."""
from __future__ import annotations

import sys
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import torch
from pages import write_table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "rules" / "operations"))
from test_every_operation import EXCUSED, OPERATIONS, RULES, behind, is_linear, name_of  # noqa: E402

from crp.attribution import Audit, CondAttribution  # noqa: E402

FAMILIES = ("nn.functional", "linalg", "fft", "special", "masked")


def family(name: str) -> str:
    """What comes before the last part of an operation's name, for the large families."""
    found = (f"`{prefix}`" for prefix in FAMILIES if name.startswith(f"{prefix}."))
    return next(found, "`torch` and methods of tensors")


def books(model: torch.nn.Module) -> Audit:
    """The audit of an operation all of whose outputs hold relevance 1."""
    size = model(model.x).shape[1]
    return CondAttribution(model).audit(model.x, RULES, [{"y": list(range(size))}])


def kind(model: torch.nn.Module, audit: Audit) -> str:
    """What an operation is, by where relevance goes."""
    magnitude = 1 + sum(map(abs, audit.sinks.values()))
    if abs(audit.accounted - 1) > 1e-6 * magnitude or audit.faults:
        return "open"
    remainder = any(name.startswith("remainder") and abs(amount) > 1e-9 for name, amount in audit.sinks.items())
    return "remainder" if remainder else "linear" if is_linear(model) else "other"


def main() -> None:
    """Write the table."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for operation in OPERATIONS:
        torch.manual_seed(0)
        model = behind(operation, all_carry=False)
        found[family(name_of(operation))][kind(model, books(model))] += 1
    found["together"] = sum(found.values(), Counter())
    print(f"without: {EXCUSED}")
    lines = [
        "| operations of | books close | linear | with a remainder | rule of their own, or copies | open |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, kinds in found.items():
        cells = [sum(kinds.values()) - kinds["open"], *(kinds[k] for k in ("linear", "remainder", "other", "open"))]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    print("\n".join(lines))
    write_table("any_model.md", "operations", "\n".join(lines))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
