"""The explorer in a notebook."""
from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anywidget
import traitlets
from zennit.core import Composite

from crp.explorer.asking import ask
from crp.explorer.joining import joined, styles
from crp.explorer.server import create_app
from crp.explorer.source import Source

THREADS = 4


class Explorer(anywidget.AnyWidget):
    """The pages of the explorer in a cell: of a store, or of a model and its sweep. Needs ``crp-concepts[notebook]``.

    What the pages ask goes to the kernel as messages of the notebook, so no port is needed: it works in JupyterLab,
    VS Code, Colab and marimo, also on another machine.

    Parameters
    ----------
    what : ReferenceStore, str, Path or FeatureVisualization
        A store or its folder; or a ``FeatureVisualization`` that has run, for heatmaps and experiments.
    composite : zennit.core.Composite, optional
        The rules of the sweep; needed with a ``FeatureVisualization``.
    class_names : list of str, optional
        By default those of the dataset.
    height : int, default 720
        Of the cell, in pixels.
    place : str, default ""
        Where to begin, as it stands in the address of the page: ``"#concept?layer=relu3&concept=12"``.

    Attributes
    ----------
    place : str
        Where one is; can be set.

    Raises
    ------
    StoreError
        If there is no store, or it is of another model, dataset or composite.

    Examples
    --------
    >>> explorer = Explorer("crp-demo/store")  # doctest: +SKIP
    >>> explorer.selection["concept"]  # doctest: +SKIP
    12
    """

    place = traitlets.Unicode("").tag(sync=True)
    height = traitlets.Int(720).tag(sync=True)
    _selection = traitlets.Dict().tag(sync=True)

    def __init__(
        self, what: Any, composite: Composite | None = None, *, class_names: list[str] | None = None,
        height: int = 720, place: str = "",
    ):
        self._esm = _module()
        self._css = styles()
        self._source = Source.of(what, composite, class_names)
        self._app = create_app([self._source])
        self._threads = ThreadPoolExecutor(THREADS, "crp-explorer-cell")
        self._sending = threading.Lock()
        super().__init__(place=place, height=height)
        self.on_msg(self._answer)

    @property
    def selection(self) -> dict[str, Any]:
        """What is shown and chosen: ``view``, ``layer``, ``quantity``, ``concept``, ``input``, ``pattern``,
        ``samples`` and ``units``; None or empty where nothing is.
        """
        return dict(self._selection)

    def close(self) -> None:
        """End the widget, and all work of the model for it."""
        self._source.worker.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _answer(self, _: Any, message: dict[str, Any], buffers: list[Any]) -> None:
        self._threads.submit(self._answer_now, message, bytes(buffers[0]) if buffers else b"")

    def _answer_now(self, message: dict[str, Any], body: bytes) -> None:
        found = ask(self._app, str(message["path"]), str(message["method"]), body)
        with self._sending:
            told = {"id": message["id"], "status": found.status, "type": found.type, "shape": found.shape}
            self.send(told, [found.content])


def _module() -> str:
    """The pages' modules as the one that anywidget takes."""
    return f"{joined('widget.js')}\nexport default {{ render: modules[\"widget.js\"].render }};\n"
