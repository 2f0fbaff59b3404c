"""Results in the form of zennit-crp: out of a store, or out of a folder that zennit-crp wrote."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from crp.store.files import QUANTITIES
from crp.store.legacy import legacy_array, load_sorted, load_targets, parse_results_name, results_name
from crp.store.place import is_store
from crp.store.reader import ReferenceStore
from crp.store.views import rows_of_view

_KINDS = "RelMax", "ActMax", "RelStats", "ActStats", "ReField"


def load_maximization(path_folder: str | Path, layer_name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The top samples of all concepts of a layer.

    Parameters
    ----------
    path_folder : str or Path
        ``fv.RelMax.PATH`` or ``fv.ActMax.PATH``; or such a folder of zennit-crp 0.6.0.
    layer_name : str

    Returns
    -------
    samples, values, rf_neurons : numpy.ndarray
        Each [up to 40, concepts], in descending order; or as many rows as ``fv.RelMax.SAMPLE_SIZE`` says.
    """
    store, selection = _open_store(path_folder)
    if store is None:
        return load_sorted(path_folder, layer_name)
    return store.sorted_rows(layer_name, k=rows_of_view(Path(path_folder), layer_name), **selection)


def load_statistics(path_folder: str | Path, layer_name: str, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The top samples of one class, for all concepts of a layer.

    Parameters
    ----------
    path_folder : str or Path
        ``fv.RelStats.PATH`` or ``fv.ActStats.PATH``; or such a folder of zennit-crp 0.6.0.
    layer_name : str
    target : int

    Returns
    -------
    samples, values, rf_neurons : numpy.ndarray
        Each [up to 40, concepts], in descending order.
    """
    store, selection = _open_store(path_folder)
    if store is None:
        return load_sorted(path_folder, str(int(target)), layer_name)
    return store.sorted_rows(layer_name, target=target, **selection)


def load_stat_targets(path_folder: str | Path) -> np.ndarray:
    """The classes for which :func:`load_statistics` has samples, ascending.

    Parameters
    ----------
    path_folder : str or Path
        ``fv.RelStats.PATH`` or ``fv.ActStats.PATH``; or such a folder of zennit-crp 0.6.0.
    """
    store, _ = _open_store(path_folder)
    if store is None:
        return load_targets(path_folder)
    return np.unique(store.targets)


def load_receptive_field(path_folder: str | Path, layer_name: str) -> np.ndarray:
    """What zennit-crp 0.6.0 kept of the receptive fields of a layer; stores keep none.

    Parameters
    ----------
    path_folder : str or Path
        Such a folder, of which :func:`find_files` gives the path.
    layer_name : str
    """
    return legacy_array(Path(path_folder), f"{layer_name}.npy")


def find_files(path: str | Path | None = None) -> tuple[list[str], list[str], list[str], list[str], list[str]]:
    """The paths that :func:`load_maximization`, :func:`load_statistics` and :func:`load_receptive_field` take.

    Parameters
    ----------
    path : str or Path, optional
        The folder given to ``FeatureVisualization``; by default the current one.

    Returns
    -------
    r_max, a_max, r_stats, a_stats, rf : list of str
        Relevance and activation maximization, their statistics, and receptive fields.
    """
    folder = Path.cwd() if path is None else Path(path)
    names = dict.fromkeys([*_names_of_results(folder), *sorted(file.name for file in folder.iterdir())])
    r_max, a_max, r_stats, a_stats, rf = ([str(folder / name) for name in names if kind in name] for kind in _KINDS)
    return r_max, a_max, r_stats, a_stats, rf


def _names_of_results(folder: Path) -> list[str]:
    """What the results that a store holds are called; nothing in other folders."""
    if not is_store(folder):
        return []
    store = ReferenceStore(folder)
    kinds = ("Max", "Stats") if store.options["keep"] == "all" else ("Max",)
    return [
        results_name(quantity, kind, statistic, normalised)
        for statistic in store.statistics for normalised in (True, False) for kind in kinds for quantity in QUANTITIES
    ]


def _open_store(path: str | Path) -> tuple[ReferenceStore | None, dict]:
    """The store that a path of results lies in, with what its name selects; no store for zennit-crp's own folders."""
    path = Path(path)
    if path.is_dir() and not is_store(path.parent):
        return None, {}
    quantity, statistic, normalised = parse_results_name(path.name)
    return ReferenceStore(path.parent), {"quantity": quantity, "statistic": statistic, "normalised": normalised}
