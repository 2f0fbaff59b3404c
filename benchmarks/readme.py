"""Tables of the README that benchmarks write, between two comments."""
import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def write_into_readme(name: str, table: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- end of name -->``."""
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    text, found = marked.subn(lambda match: f"{match[1]}{table}\n{match[2]}", README.read_text(encoding="utf-8"))
    assert found == 1, f"the README has {found} places for {name}"
    README.write_text(text, encoding="utf-8")
