"""A self-contained HTML page of figures with captions."""
from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; --text: #222; --ground: #fff; --line: #ddd; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e4e4; --ground: #16181c; --line: #3a3d44; } }
body { font: 17px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--text); background: var(--ground); }
h1 { font-size: 1.7rem; line-height: 1.2; }
h2 { font-size: 1.25rem; margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
p { max-width: 46rem; }
.card { background: #fff; border-radius: .5rem; padding: .5rem; margin: 1rem 0; overflow-x: auto; }
.card img { display: block; width: 100%; }
@media (max-width: 40rem) { body { margin-top: 1rem; } .wide img { width: auto; max-width: 44rem; } }
"""


class Page:
    """Collects figures, saves each as PNG, and writes all of them into one ``index.html``.

    Parameters
    ----------
    folder : str or Path
    title : str
    introduction : str
    """

    def __init__(self, folder: str | Path, title: str, introduction: str):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._title = html.escape(title)
        self._parts = [f"<h1>{self._title}</h1>", _paragraphs(introduction)]

    def add(self, name: str, heading: str, caption: str, figure: Figure) -> Path:
        """Save a figure as ``<name>.png`` and put it on the page; the figure is closed.

        On phones, figures of more than eight inches keep a readable size and are moved sideways.
        """
        card = "card wide" if figure.get_figwidth() > 8 else "card"
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=110)
        plt.close(figure)
        file = self.folder / f"{name}.png"
        file.write_bytes(content.getvalue())
        encoded = base64.b64encode(content.getvalue()).decode()
        self._parts.append(
            f"<h2>{html.escape(heading)}</h2>{_paragraphs(caption)}"
            f'<div class="{card}"><img src="data:image/png;base64,{encoded}" alt="{html.escape(heading)}"></div>'
        )
        return file

    def write(self) -> Path:
        """Write ``index.html``."""
        file = self.folder / "index.html"
        file.write_text(
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{self._title}</title><style>{_STYLE}</style>"
            + "\n".join(self._parts) + "</html>\n", encoding="utf-8",
        )
        return file


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{html.escape(part)}</p>" for part in text.split("\n\n"))
