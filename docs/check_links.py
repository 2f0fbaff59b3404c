"""Fails if a page of the built documentation refers to what is not there, or needs a network to be shown.

``python docs/check_links.py docs/_build/html``
"""
from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {("link", "href"), ("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("object", "data")}


class Page(HTMLParser):
    """Places and references of a page.

    Attributes
    ----------
    places : set of str
        What fragments may name.
    references : list of tuple
        (whether it is loaded with the page, address).
    """

    def __init__(self, path: Path):
        super().__init__()
        self.places: set[str] = set()
        self.references: list[tuple[bool, str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note what a tag names and refers to."""
        for name, value in attributes:
            if value and (name == "id" or (name == "name" and tag == "a")):
                self.places.add(value)
            elif value and name in ("href", "src", "data"):
                self.references.append(((tag, name) in LOADED, value))


def problems(folder: Path) -> Iterator[str]:
    """What is wrong with the pages of a folder, in words."""
    pages = {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html"))}
    if not pages:
        yield f"{folder} has no pages"
    for path, page in pages.items():
        for loaded, address in page.references:
            fault = _fault(path, address, loaded, pages)
            if fault:
                yield f"{path.relative_to(folder.resolve())}: {address}: {fault}"


def _fault(path: Path, address: str, loaded: bool, pages: dict[Path, Page]) -> str:
    parts = urlsplit(address)
    if parts.scheme == "data" or (parts.scheme in ("http", "https", "mailto") and not loaded):
        return ""
    if parts.scheme or parts.netloc:
        return "needs a network" if loaded else f"of unknown kind {parts.scheme!r}"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return "no such file"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
        return "no such place"
    return ""


def main() -> None:
    """Print what is wrong; exit code 1 if there is anything."""
    found = list(problems(Path(sys.argv[1])))
    print("\n".join(found) or "All links lead somewhere.")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
