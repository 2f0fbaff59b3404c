"""Small functions that users of zennit-crp know under this name."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from crp.attribution.sample_finder import SampleFinder
from crp.attribution.taps import LayerTaps
from crp.concepts import normalise
from crp.model.inputs import call_model
from crp.model.layers import as_layer_list, get_layer_names
from crp.pictures.heatmaps import max_norm
from crp.store.legacy import find_files, load_sorted, load_targets, parse_results_name
from crp.store.place import is_store
from crp.store.reader import ReferenceStore
from crp.store.views import rows_of_view

__all__ = [
    "abs_norm", "find_files", "get_layer_names", "get_output_shapes", "load_maximization", "load_stat_targets",
    "load_statistics", "max_norm",
]

abs_norm = normalise


def get_output_shapes(model: nn.Module, single_sample: Any, record_layers: list[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of layers for one sample, without the batch axis.

    Parameters
    ----------
    model : torch.nn.Module
    single_sample : torch.Tensor, tuple or dict
        Input of the model with a batch axis.
    record_layers : list of str

    Returns
    -------
    dict
        Layer -> shape.
    """
    record_layers = as_layer_list(record_layers)
    rows = SampleFinder(model).find(record_layers, single_sample, rows_last=record_layers)
    with torch.no_grad(), LayerTaps(model, record_layers, rows=rows) as taps:
        call_model(model, single_sample)
        return {layer: tuple(taps.outputs[layer].shape[1:]) for layer in record_layers}


def load_maximization(path: str | Path, layer: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The top samples of all concepts of a layer.

    Parameters
    ----------
    path : str or Path
        ``fv.RelMax.PATH`` or ``fv.ActMax.PATH``; or such a folder of zennit-crp 0.6.0.
    layer : str

    Returns
    -------
    samples, values, rf_neurons : numpy.ndarray
        Each [up to 40, concepts], in descending order; or as many rows as ``fv.RelMax.SAMPLE_SIZE`` says.
    """
    store, selection = _open_store(path)
    if store is None:
        return load_sorted(path, layer)
    return store.sorted_rows(layer, k=rows_of_view(Path(path), layer), **selection)


def load_statistics(path: str | Path, layer: str, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The top samples of one class, for all concepts of a layer.

    Parameters
    ----------
    path : str or Path
        ``fv.RelStats.PATH`` or ``fv.ActStats.PATH``; or such a folder of zennit-crp 0.6.0.
    layer : str
    target : int

    Returns
    -------
    samples, values, rf_neurons : numpy.ndarray
        Each [up to 40, concepts], in descending order.
    """
    store, selection = _open_store(path)
    if store is None:
        return load_sorted(path, str(int(target)), layer)
    return store.sorted_rows(layer, target=target, **selection)


def load_stat_targets(path: str | Path) -> np.ndarray:
    """The classes for which :func:`load_statistics` has samples, ascending.

    Parameters
    ----------
    path : str or Path
        ``fv.RelStats.PATH`` or ``fv.ActStats.PATH``; or such a folder of zennit-crp 0.6.0.
    """
    store, _ = _open_store(path)
    if store is None:
        return load_targets(path)
    return np.unique(store.targets)


def _open_store(path: str | Path) -> tuple[ReferenceStore | None, dict]:
    """The store that a path of results lies in, with what its name selects; no store for zennit-crp's own folders."""
    path = Path(path)
    if path.is_dir() and not is_store(path.parent):
        return None, {}
    quantity, statistic, normalised = parse_results_name(path.name)
    return ReferenceStore(path.parent), {"quantity": quantity, "statistic": statistic, "normalised": normalised}
