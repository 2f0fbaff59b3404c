"""Mean profiles of groups of samples, from wherever their values come."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from zennit.core import Composite

from crp.analysis.profile_sources import (
    Batch,
    Maps,
    batches_of_arrays,
    batches_of_folder,
    batches_of_model,
    batches_of_store,
)
from crp.analysis.profiles import GroupProfiles, natural_order
from crp.attribution.conditional import CondAttribution
from crp.model.layers import as_layer_list
from crp.model.positions import ATTENTION_MASK, PositionMask
from crp.store.reader import ReferenceStore


def group_profiles(
    source: Any, groups: Any = "target", *, layers: list[str] | None = None, quantity: str = "activation",
    positions: bool | None = None, align: str | None = None, gradients: Mapping[str, Any] | None = None,
    composite: Composite | None = None, targets: Any = None, axis: int = 1, batch_size: int = 32,
    position_mask: PositionMask = ATTENTION_MASK,
) -> GroupProfiles:
    """Average what layers do over groups of samples.

    Parameters
    ----------
    source : ReferenceStore, (model or CondAttribution, dataset), dict or path
        Where values come from: a store; a model and a dataset that gives (input, target); arrays, layer -> [N, C, ...],
        of any framework; or a folder of ``.npy`` batches, which are read one after the other:

        ::

            corpus.csv               columns: file, group, and optionally target; a line per batch
            layer name/0001.npy      activations [N, C, ...] of a batch, named as in the column file
            gradients/layer name/0001.npy

    groups : str, array-like or dict, default "target"
        "target", "prediction" (of a store or a model), "group" (of a folder); or one label per sample of the dataset.
        Several kinds of groups at once are a dict, kind -> any of these.
    layers : list of str, optional
        By default all of a store, of the arrays or of the folder; a model needs them.
    quantity : {"activation", "relevance"}
        What to average. Relevance of a model needs a composite.
    positions : bool, optional
        Keep positions [G, C, positions...] instead of the mean over them; by default True, except for stores, which
        hold none.
    align : {"gradient", "relevance"}, optional
        Shift each sample's map, before it is averaged, so that the position at which the mean over channels of the
        absolute gradient or relevance is largest comes to the centre (index n // 2 of each axis); what is shifted in
        is zero. Maps without positions, or whose saliency is the same everywhere, stay.
    gradients : dict, optional
        For arrays: layer -> [N, C, ...], gradients (or relevance) that go with the activations.
    composite : zennit.core.Composite, optional
        For a model: the rules.
    targets : array-like, optional
        For a model: the output of each sample whose gradient or relevance counts; by default the largest.
    axis : int, default 1
        For a model, arrays and folders: the axis of the channels, counted with the axis of samples; -1 for channels
        last.
    batch_size : int, default 32
        For a model.
    position_mask : str, callable or None, default "attention_mask"
        For a model: which positions count, as for :class:`crp.visualization.FeatureVisualization`.

    Returns
    -------
    GroupProfiles
        Exact means: every sample has the same weight, however it was batched; at each position, every sample that has
        it, and 0 where none does.

    References
    ----------
    A. Krug, M. Ebrahimzadeh, J. Alemann, J. Johannsmeier, S. Stober (2021). Analyzing and Visualizing Deep Neural
    Networks for Speech Recognition with Saliency-Adjusted Neuron Activation Profiles. Electronics 10(11), 1350.
    """
    if quantity not in ("activation", "relevance"):
        raise ValueError(f"quantity is 'activation' or 'relevance', not {quantity!r}")
    layers = None if layers is None else as_layer_list(layers)
    if align not in (None, "gradient", "relevance"):
        raise ValueError(f"align is None, 'gradient' or 'relevance', not {align!r}")
    identity = None
    if isinstance(source, ReferenceStore):
        if align is not None or positions:
            raise ValueError("a store holds no maps to keep or align: give (model, dataset) instead")
        if source.options["keep"] == "top" and groups == "target":
            return _profiles_of_classes(source, layers, quantity)
        identity, batches = source.identity(), batches_of_store(source, groups, layers, quantity)
    elif isinstance(source, Mapping):
        batches = batches_of_arrays(source, gradients, groups, layers, align, axis)
    elif isinstance(source, (str, Path)):
        batches = batches_of_folder(Path(source), groups, layers, align, axis)
    elif isinstance(source, tuple) and len(source) == 2 and isinstance(source[0], (CondAttribution, nn.Module)):
        model, dataset = source
        attribution = CondAttribution(model) if isinstance(model, nn.Module) else model
        batches = batches_of_model(
            attribution, dataset, groups, layers, quantity, align, composite, targets, axis, batch_size, position_mask
        )
    else:
        raise TypeError("source is a ReferenceStore, (model, dataset), a dict of arrays or a folder, not a "
                        f"{type(source).__name__}")
    options = {"source": identity, "quantity": quantity, "align": align}
    return _averaged(batches, positions is not False, options)


def centred(values: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Shift maps so that the most salient position of each is central.

    Parameters
    ----------
    values : numpy.ndarray
        [N, C, positions...]
    saliency : numpy.ndarray
        [N, C, positions...] with the same positions.

    Returns
    -------
    numpy.ndarray
        [N, C, positions...], zero where something outside was shifted in.
    """
    shape = values.shape[2:]
    if not shape:
        return values
    if saliency.shape[:1] + saliency.shape[2:] != values.shape[:1] + shape:
        raise ValueError(f"saliency of the shape {saliency.shape} does not fit maps of the shape {values.shape}")
    strength = np.abs(saliency).mean(1).reshape(len(values), -1)
    peaks = np.stack(np.unravel_index(strength.argmax(1), shape), 1)
    centre = np.array(shape) // 2
    peaks[strength.max(1) == strength.min(1)] = centre
    for i, length in enumerate(shape):
        wanted = np.arange(length) + (peaks[:, i] - centre[i])[:, None]
        inside = (wanted >= 0) & (wanted < length)
        along = [len(values), *[1] * (values.ndim - 1)]
        along[i + 2] = length
        moved = np.take_along_axis(values, wanted.clip(0, length - 1).reshape(along), i + 2)
        values = np.where(inside.reshape(along), moved, 0)
    return values


def _averaged(batches: Iterator[Batch], keep_positions: bool, options: dict[str, Any]) -> GroupProfiles:
    """Sum up batches in float64 and divide by the number of samples."""
    sums: dict[str, dict[str, np.ndarray]] = {}
    numbers: dict[str, dict[str, Any]] = {}
    sizes: dict[str, int] = {}
    for batch in batches:
        members: dict[str, list[int]] = {}
        for row, names in enumerate(batch.groups):
            for name in names:
                members.setdefault(name, []).append(row)
        for name, rows in members.items():
            sizes[name] = sizes.get(name, 0) + len(rows)
        for layer, maps in batch.layers.items():
            values, counts = _profiles(maps, keep_positions)
            of_layer, numbers_of_layer = sums.setdefault(layer, {}), numbers.setdefault(layer, {})
            for name, rows in members.items():
                of_layer[name] = of_layer.get(name, 0) + values[rows].sum(0)
                numbers_of_layer[name] = numbers_of_layer.get(name, 0) + counts[rows].sum(0)
    if not sizes:
        raise ValueError("there are no samples to average")
    names = sorted(sizes, key=natural_order)
    counts = np.array([sizes[name] for name in names])
    return GroupProfiles(names, counts, {
        layer: np.stack([of_layer[name] / np.maximum(1, numbers[layer][name]) for name in names])
        for layer, of_layer in sums.items()
    }, options)


def _profiles(maps: Maps, keep_positions: bool) -> tuple[np.ndarray, np.ndarray]:
    """The profile of each sample, 0 where no position counts; and how often each of its numbers counts, 0 or 1."""
    values, saliency, counts = np.asarray(maps.values, np.float64), maps.saliency, maps.counts
    everywhere = np.ones((len(values),) + (1,) * (values.ndim - 1), bool)
    if counts is None:
        counts = everywhere
    else:
        values, saliency = np.where(counts, values, 0), None if saliency is None else np.where(counts, saliency, 0)
    if saliency is not None:
        values = centred(values, saliency)
    if not keep_positions and values.ndim > 2:
        positions = tuple(range(2, values.ndim))
        number = np.broadcast_to(counts, (len(values), 1, *values.shape[2:])).sum(positions)
        return values.sum(positions) / number, np.ones_like(number)
    return values, counts if saliency is None else everywhere


def _profiles_of_classes(store: ReferenceStore, layers: list[str] | None, quantity: str) -> GroupProfiles:
    """From the sums of each class, which is what a store without matrices keeps."""
    means = {}
    for layer in store.layers if layers is None else layers:
        classes, counts, means[layer] = store.profile_of_classes(layer, quantity)
    options = {"source": store.identity(), "quantity": quantity, "align": None}
    return GroupProfiles([str(number) for number in classes], np.asarray(counts), means, options)
