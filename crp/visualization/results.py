"""What zennit-crp's ``Maximization`` and ``Statistics`` were made with, and the folders that hold their results.

Results come from the store. These objects say which: of relevance or activation, sums or largest values, shares or raw
values; and write zennit-crp's files of them for programs that read these.
"""
from __future__ import annotations

import operator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self, overload

import numpy as np

from crp.concepts import check_max_target
from crp.model.successors import Successor, check_overrides
from crp.store.files import QUANTITIES, TABLE_DEPTH
from crp.store.folder import StoreError
from crp.store.legacy import results_name
from crp.store.place import is_sealed
from crp.store.reader import ReferenceStore
from crp.store.views import Columns, write_class_views, write_top_views

OWN_ANALYSIS = "to analyse a layer otherwise, subclass crp.concepts.Concept and override read or reference_sampling"
_STORE = "FeatureVisualization.run keeps all results in its store, which crp.store.ReferenceStore reads"
_MOST_CLASS_VIEWS = 1000


class Results(Successor):
    """One kind of results of a sweep."""

    SAMPLE_SIZE: int = TABLE_DEPTH
    replaced = {
        "analyze_layer": OWN_ANALYSIS, "delete_result_arrays": _STORE, "concatenate_with_results": _STORE,
        "sort_result_array": _STORE, "_save_results": _STORE, "collect_results": _STORE,
    }
    _kind: ClassVar[str]

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuse nothing yet: modules with subclasses of zennit-crp's can be imported."""

    def __init__(
        self, mode: str = "relevance", max_target: str = "sum", abs_norm: bool = False, path: str | Path | None = None
    ):
        check_overrides(type(self))
        if mode not in QUANTITIES:
            raise ValueError(f"mode is 'relevance' or 'activation', not {mode!r}")
        check_max_target(max_target)
        self.mode, self.max_target, self.abs_norm = mode, max_target, abs_norm
        self._parent = Path() if path is None else Path(path)
        self._store_path: Path | None = None
        self._written: tuple | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.mode!r}, {self.max_target!r}, {self.abs_norm}, {str(self._parent)!r})"

    @property
    def PATH(self) -> Path:  # noqa: N802
        """The folder of these results, which ``crp.helper`` reads; with zennit-crp's files, if there is a store."""
        with suppress(OSError):  # it may lie where nothing can be written
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._store_path is not None and is_sealed(self._store_path):
                self._write_once(ReferenceStore(self._store_path))
        return self._folder

    @property
    def _folder(self) -> Path:
        return self._parent / results_name(self.mode, self._kind, self.max_target, self.abs_norm)

    def show(self, store: ReferenceStore) -> None:
        """Write the files of what a store holds, if they can be written and have not been.

        Where another process has replaced the store meanwhile, that process writes them.
        """
        try:
            with suppress(OSError):
                self._write_once(store)
        except StoreError:
            if is_sealed(store.path) and ReferenceStore(store.path).identity() == store.identity():
                raise

    def belong_to(self, store_path: Path) -> None:
        """Read the store at a path from now on."""
        self._store_path = store_path

    def selection(self) -> dict[str, Any]:
        """What these results are, in words of ``ReferenceStore.top``."""
        return {"statistic": self.max_target, "normalised": self.abs_norm}

    def _write_once(self, store: ReferenceStore) -> None:
        state = store.identity(), self._folder, self.SAMPLE_SIZE
        if self._written != state:
            self._write(store, self._folder)
            self._written = state

    def _write(self, store: ReferenceStore, path: Path) -> None:
        raise NotImplementedError

    def _top(self, store: ReferenceStore, layer: str, target: int | None = None) -> Columns:
        return store.sorted_rows(layer, self.mode, target, k=operator.index(self.SAMPLE_SIZE), **self.selection())


class Maximization(Results):
    """Which samples are meant by those at which concepts are strongest.

    Its folder holds ``<layer>_data.npy`` (samples), ``_rel.npy`` (values) and ``_rf.npy`` (positions), each
    [SAMPLE_SIZE, concepts].

    Parameters
    ----------
    mode : {"relevance", "activation"}
    max_target : {"sum", "max"}
        Whether a concept's value is the sum over positions or the largest value.
    abs_norm : bool, default False
        Rank samples by the concept's share of the layer instead of the value.
    path : str or Path, optional
        Where :attr:`PATH` lies; by default the current folder.

    Attributes
    ----------
    SAMPLE_SIZE : int, default 40
        How many samples of each concept the files hold, and ``crp.helper.load_maximization`` gives.
    """

    _kind = "Max"

    def _write(self, store: ReferenceStore, path: Path) -> None:
        write_top_views(path, store.layers, lambda layer: self._top(store, layer))


class Statistics(Results):
    """Which samples are meant by those of each class at which concepts are strongest.

    Its arguments and attributes are those of :class:`crp.visualization.Maximization`.

    Its folder holds ``targets.npy`` and, where layers times classes are at most 1,000,
    ``<layer>/<class>_data.npy`` and so on. ``crp.helper.load_statistics`` answers for any number of classes.
    """

    _kind = "Stats"

    def _write(self, store: ReferenceStore, path: Path) -> None:
        if store.options["keep"] == "all":
            classes = np.unique(store.targets[store.targets >= 0]).tolist()
            layers = store.layers if len(classes) * len(store.layers) <= _MOST_CLASS_VIEWS else []
            write_class_views(path, layers, classes, lambda layer, number: self._top(store, layer, number))


class ResultsAttribute:
    """An attribute of a visualization that holds results of one kind and mode, and reads its store."""

    def __init__(self, kind: type[Results], mode: str):
        self.kind, self.mode = kind, mode

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> Results: ...

    def __get__(self, instance: object | None, owner: type) -> Any:
        return self if instance is None else vars(instance)[self.name]

    def __set__(self, instance: Any, value: Results) -> None:
        if not isinstance(value, self.kind) or value.mode != self.mode:
            raise TypeError(f"{self.name} is a {self.kind.__name__}({self.mode!r}, ...), not {value!r}")
        check_overrides(type(value))
        value.belong_to(instance.path)
        vars(instance)[self.name] = value
