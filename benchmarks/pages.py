"""Tables of the documentation that benchmarks write, between two comments."""
import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def read_table(page: str, name: str) -> str:
    """What stands between ``<!-- name -->`` and ``<!-- end of name -->`` on a page, such as "speed.md"."""
    found = _place(name).search((DOCS / page).read_text(encoding="utf-8"))
    assert found, f"{page} has no place for {name}"
    return found[2]


def write_table(page: str, name: str, table: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- end of name -->`` on a page."""
    text, found = _place(name).subn(
        lambda match: f"{match[1]}{table}\n{match[3]}", (DOCS / page).read_text(encoding="utf-8")
    )
    assert found == 1, f"{page} has {found} places for {name}"
    (DOCS / page).write_text(text, encoding="utf-8")


def _place(name: str) -> re.Pattern:
    return re.compile(rf"(<!-- {name} -->\n)(.*?)(<!-- end of {name} -->)", re.DOTALL)
