"""Tables of the README that benchmarks write, between two comments."""
import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def read_from_readme(name: str) -> str:
    """What stands between ``<!-- name -->`` and ``<!-- end of name -->``."""
    return _place(name).search(README.read_text(encoding="utf-8"))[2]


def write_into_readme(name: str, table: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- end of name -->``."""
    text, found = _place(name).subn(
        lambda match: f"{match[1]}{table}\n{match[3]}", README.read_text(encoding="utf-8")
    )
    assert found == 1, f"the README has {found} places for {name}"
    README.write_text(text, encoding="utf-8")


def _place(name: str) -> re.Pattern:
    return re.compile(rf"(<!-- {name} -->\n)(.*?)(<!-- end of {name} -->)", re.DOTALL)
