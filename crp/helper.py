"""Small functions that users of zennit-crp know under this name."""
from __future__ import annotations

from typing import Any

import torch
from torch import nn

from crp.attribution.sample_finder import SampleFinder
from crp.attribution.taps import LayerTaps
from crp.handed_on import HandedOn
from crp.model.inputs import call_model
from crp.model.layers import as_layer_list, get_layer_names
from crp.pictures.heatmaps import max_norm
from crp.store.results import (
    find_files,
    load_maximization,
    load_receptive_field,
    load_stat_targets,
    load_statistics,
)

__all__ = [
    "abs_norm", "find_files", "get_layer_names", "get_output_shapes", "load_maximization", "load_receptive_field",
    "load_stat_targets", "load_statistics", "max_norm",
]
__getattr__ = HandedOn(__name__, {
    "List": "typing:List", "Path": "pathlib:Path", "np": "numpy", "os": "os", "torch": "torch",
})
__all__ += __getattr__.installed()


def abs_norm(rel: torch.Tensor, stabilize: float = 1e-10) -> torch.Tensor:
    """Divide by the sum of the absolute values of the whole tensor; row by row, use :func:`crp.concepts.normalise`.

    Parameters
    ----------
    rel : torch.Tensor
    stabilize : float, default 1e-10
        Added to the sum.
    """
    return rel / (rel.abs().sum() + stabilize)


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
