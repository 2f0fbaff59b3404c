"""Profiles of groups of samples: what a layer does on average in each class, or in any other group."""
from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from crp.archive import read_archive, write_archive
from crp.arrays import as_array
from crp.attribution import CondAttribution
from crp.conditions import one_at_the_largest
from crp.layers import as_layer_list
from crp.samples import iterate_items, join_samples, list_targets, split_item, with_batch_axis
from crp.store import ReferenceStore, StoreError

_KIND = "crp-profiles 1"


@dataclass(frozen=True)
class GroupProfiles:
    """Mean profile of each group in each layer.

    Attributes
    ----------
    groups : list of str
        Names of the groups, in order; of several kinds of groups ``"kind=name"``.
    sizes : numpy.ndarray
        [G], number of samples (or rows) in each.
    values : dict
        Layer -> [G, C], the mean over positions; [G, C, positions...] where they were kept. Of a store it is the value
        of each concept as it was swept: for channels the sum over positions.
    options : dict
        What the profiles depend on; ``options["source"]`` names the store they were read from.
    """

    groups: list[str]
    sizes: np.ndarray
    values: dict[str, np.ndarray]
    options: dict

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in order."""
        return list(self.values)

    def __getitem__(self, layer: str) -> np.ndarray:
        if layer not in self.values:
            raise KeyError(f"there are no profiles of layer {layer!r}, only of {', '.join(map(repr, self.layers))}")
        return self.values[layer]

    def __repr__(self):
        shapes = ", ".join(f"{layer!r}: {list(values.shape)}" for layer, values in self.values.items())
        return f"GroupProfiles({len(self.groups)} groups of {int(self.sizes.sum())} samples; {shapes})"

    def select(self, groups: Any) -> GroupProfiles:
        """Only some groups, in the given order."""
        indices = [self._index(name) for name in ([groups] if isinstance(groups, str) else groups)]
        return replace(
            self, groups=[self.groups[i] for i in indices], sizes=self.sizes[indices],
            values={layer: values[indices] for layer, values in self.values.items()},
        )

    def _index(self, name):
        name = name.item() if isinstance(name, torch.Tensor) else name
        if str(name) not in self.groups:
            raise KeyError(f"there is no group {name!r}, only {', '.join(map(repr, self.groups))}")
        return self.groups.index(str(name))

    def check_source(self, store: ReferenceStore) -> None:
        """Raise a StoreError if the profiles were not read from what the store holds now."""
        if self.options.get("source") != store.identity():
            raise StoreError(f"these profiles were not read from what {store.path} holds: compute them again")

    def save(self, path: str | Path) -> None:
        """Write to a file (.npz, without pickle)."""
        settings = {"groups": self.groups, "layers": self.layers, "options": self.options}
        arrays = {f"values_{i}": values for i, values in enumerate(self.values.values())}
        write_archive(path, _KIND, settings, {"sizes": self.sizes, **arrays})

    @classmethod
    def load(cls, path: str | Path, store: ReferenceStore | None = None) -> GroupProfiles:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : str or Path
        store : ReferenceStore, optional
            Refuse profiles that were not read from what it holds.

        Raises
        ------
        ValueError
            If the file holds no profiles; StoreError if they are of another sweep.
        """
        def make(settings, arrays):
            values = {layer: arrays[f"values_{i}"] for i, layer in enumerate(settings["layers"])}
            return cls(settings["groups"], arrays["sizes"], values, settings["options"])

        profiles = read_archive(path, _KIND, make)
        if store is not None:
            profiles.check_source(store)
        return profiles


class _Batch(NamedTuple):
    """Some samples: the names of the groups of each, and per layer values [B, C, positions...] and saliency."""

    groups: list[list[str]]
    layers: dict[str, tuple[np.ndarray, np.ndarray | None]]


def group_profiles(
    source: Any, groups: Any = "target", *, layers: list[str] | None = None, quantity: str = "activation",
    positions: bool | None = None, align: str | None = None, gradients: Mapping[str, Any] | None = None,
    composite: Any = None, targets: Any = None, axis: int = 1, batch_size: int = 32,
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

    Returns
    -------
    GroupProfiles
        Exact means: every sample has the same weight, however it was batched.

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
        identity, batches = source.identity(), _batches_of_store(source, groups, layers, quantity)
    elif isinstance(source, Mapping):
        batches = _batches_of_arrays(source, gradients, groups, layers, align, axis)
    elif isinstance(source, (str, Path)):
        batches = _batches_of_folder(Path(source), groups, layers, align, axis)
    elif isinstance(source, tuple) and len(source) == 2 and isinstance(source[0], (CondAttribution, nn.Module)):
        model, dataset = source
        attribution = CondAttribution(model) if isinstance(model, nn.Module) else model
        batches = _batches_of_model(
            attribution, dataset, groups, layers, quantity, align, composite, targets, axis, batch_size
        )
    else:
        raise TypeError("source is a ReferenceStore, (model, dataset), a dict of arrays or a folder, not a "
                        f"{type(source).__name__}")
    options = {"source": identity, "quantity": quantity, "align": align}
    return _averaged(batches, align, positions is not False, options)


def contrast(profiles: GroupProfiles, groups: Any = None, weight: str = "equal") -> GroupProfiles:
    """What sets groups apart: each group's profile less the average over the groups.

    Parameters
    ----------
    profiles : GroupProfiles
    groups : list of str, optional
        The groups of interest; by default all.
    weight : {"equal", "size"}
        Whether groups count alike in the average, or by their sizes.

    Returns
    -------
    GroupProfiles
    """
    if weight not in ("equal", "size"):
        raise ValueError(f"weight is 'equal' or 'size', not {weight!r}")
    chosen = profiles if groups is None else profiles.select(groups)
    weights = chosen.sizes if weight == "size" else None
    values = {layer: v - np.average(v, axis=0, weights=weights) for layer, v in chosen.values.items()}
    return replace(chosen, values=values, options={**chosen.options, "contrast": weight})


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


def _averaged(batches: Iterator[_Batch], align, keep_positions, options) -> GroupProfiles:
    """Sum up batches in float64 and divide by the number of samples."""
    sums: dict[str, dict[str, np.ndarray]] = {}
    sizes: dict[str, int] = {}
    for batch in batches:
        members: dict[str, list[int]] = {}
        for row, names in enumerate(batch.groups):
            for name in names:
                members.setdefault(name, []).append(row)
        for name, rows in members.items():
            sizes[name] = sizes.get(name, 0) + len(rows)
        for layer, (values, saliency) in batch.layers.items():
            values = np.asarray(values, np.float64)
            if align is not None:
                values = centred(values, saliency)
            if not keep_positions and values.ndim > 2:
                values = values.reshape(*values.shape[:2], -1).mean(2)
            of_layer = sums.setdefault(layer, {})
            for name, rows in members.items():
                of_layer[name] = of_layer.get(name, 0) + values[rows].sum(0)
    if not sizes:
        raise ValueError("there are no samples to average")
    names = sorted(sizes, key=_natural)
    counts = np.array([sizes[name] for name in names])
    return GroupProfiles(names, counts, {
        layer: np.stack([of_layer[name] / sizes[name] for name in names]) for layer, of_layer in sums.items()
    }, options)


def _natural(name: str) -> tuple:
    """Order of group names: numbers by value, then text."""
    kind, _, label = name.rpartition("=")
    try:
        number = float(label)
    except ValueError:
        number = float("nan")
    return (kind, 1, 0., label) if number != number else (kind, 0, number, label)


def _names(groups: Any, labels_of: dict[str, Any], samples: np.ndarray, length: int | None = None) -> list[list[str]]:
    """Names of the groups of each row; ``labels_of`` has one label per row, ``samples`` the row's sample."""
    if not isinstance(groups, Mapping):
        return [[str(label)] for label in _labels(groups, labels_of, samples, length)]
    kinds = [[f"{kind}={label}" for label in _labels(of, labels_of, samples, length)] for kind, of in groups.items()]
    return [list(names) for names in zip(*kinds)]


def _strings(groups: Any) -> list[str]:
    """The groups that are named instead of given label by label."""
    return [of for of in (groups.values() if isinstance(groups, Mapping) else [groups]) if isinstance(of, str)]


def _labels(groups, labels_of, samples, length) -> list:
    if isinstance(groups, str):
        if labels_of.get(groups) is None:
            raise ValueError(f"groups is 'target', 'prediction' or one label per sample, not {groups!r}")
        return list(labels_of[groups])
    labels = [label.item() if isinstance(label, (torch.Tensor, np.generic)) else label for label in groups]
    if len(labels) != (length or len(labels)) or len(labels) <= samples.max():
        raise ValueError(f"groups holds {len(labels)} labels, but there are {length or samples.max() + 1} samples")
    return [labels[i] for i in samples]


def _profiles_of_classes(store, layers, quantity) -> GroupProfiles:
    """From the sums of each class, which is what a store without matrices keeps."""
    means = {}
    for layer in store.layers if layers is None else layers:
        classes, counts, means[layer] = store.profile_of_classes(layer, quantity)
    options = {"source": store.identity(), "quantity": quantity, "align": None}
    return GroupProfiles([str(number) for number in classes], np.asarray(counts), means, options)


def _batches_of_store(store, groups, layers, quantity) -> Iterator[_Batch]:
    rows = store.rows(quantity)
    labels = {"prediction": rows["prediction"]}
    if "target" in _strings(groups):
        labels["target"] = store.targets_of_rows(quantity)
    names = _names(groups, labels, rows["sample"], store.manifest["settings"]["dataset"]["length"])
    layers = store.layers if layers is None else layers
    blocks = zip(*(store.values(layer, quantity).blocks() for layer in layers))
    first = 0
    for values in blocks:
        stop = first + len(values[0])
        yield _Batch(names[first:stop], {layer: (block, None) for layer, block in zip(layers, values)})
        first = stop


def _batches_of_arrays(activations, gradients, groups, layers, align, axis) -> Iterator[_Batch]:
    layers = list(activations) if layers is None else layers
    values = {layer: _channels_second(activations[layer], axis) for layer in layers}
    lengths = {layer: len(array) for layer, array in values.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"the arrays differ in their number of samples: {lengths}")
    if align is not None and gradients is None:
        raise ValueError(f"align={align!r} needs gradients: layer -> array")
    if isinstance(groups, str):
        raise ValueError("arrays have no labels of their own: groups is one label per sample")
    count = next(iter(lengths.values()))
    names = _names(groups, {}, np.arange(count), count)
    saliency = {} if align is None else {layer: _channels_second(gradients[layer], axis) for layer in layers}
    for first in range(0, count, 1024):
        part = slice(first, first + 1024)
        yield _Batch(names[part], {
            layer: (array[part], saliency[layer][part] if saliency else None) for layer, array in values.items()
        })


def _channels_second(array: Any, axis: int) -> np.ndarray:
    array = as_array(array)
    if array.ndim < 2:
        raise ValueError(f"values are [samples, channels, ...], not of the shape {array.shape}")
    return np.moveaxis(array, axis, 1)


def _batches_of_folder(folder, groups, layers, align, axis) -> Iterator[_Batch]:
    corpus = folder / "corpus.csv"
    if not corpus.is_file():
        raise FileNotFoundError(f"{corpus} is missing: a table with the columns file and group, and a line per batch")
    with open(corpus, newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    groups = "group" if isinstance(groups, str) and groups == "target" and not _has_column(lines, "target") else groups
    for column in ("file", *([groups] if isinstance(groups, str) else [])):
        if not _has_column(lines, column):
            raise ValueError(f"{corpus} has no column {column!r}, or no lines")
    if layers is None:
        layers = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name != "gradients")
    needed = [
        folder / part / layer / line["file"] for line in lines for layer in layers
        for part in ([""] if align is None else ["", "gradients"])
    ]
    missing = [str(path) for path in needed if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} files that {corpus} names are missing, as {missing[0]}")
    done = 0
    for line in lines:
        arrays = {layer: _channels_second(np.load(folder / layer / line["file"]), axis) for layer in layers}
        saliency = {
            layer: None if align is None else _channels_second(
                np.load(folder / "gradients" / layer / line["file"]), axis
            ) for layer in layers
        }
        lengths = {len(array) for array in (*arrays.values(), *saliency.values()) if array is not None}
        if len(lengths) != 1:
            raise ValueError(f"the batches {line['file']!r} of the layers differ in length: {sorted(lengths)}")
        count = lengths.pop()
        labels = {column: [line[column]] * count for column in ("group", "target") if column in line}
        names = _names(groups, labels, np.arange(done, done + count))
        done += count
        yield _Batch(names, {layer: (arrays[layer], saliency[layer]) for layer in layers})


def _has_column(lines, column):
    return bool(lines) and lines[0].get(column) is not None


def _batches_of_model(
    attribution, dataset, groups, layers, quantity, align, composite, targets, axis, batch_size
) -> Iterator[_Batch]:
    if not layers:
        raise ValueError("layers says of which layers: layers=['layer4', ...]")
    if composite is None and "relevance" in (quantity, align):
        raise ValueError("relevance needs a composite: group_profiles(..., composite=EpsilonPlusFlat())")
    kinds = sorted({kind for kind in (quantity, align) if kind in ("relevance", "gradient")}) or ["gradient"]
    name, first = attribution.MODEL_OUTPUT_NAME, 0

    def attribute(data, samples, kind):
        """Activations, with relevance or gradients, of the largest output or the given one."""
        is_relevance = kind == "relevance"
        conditions, init_rel = [{}] * len(samples), _largest_output if is_relevance else one_at_the_largest
        if targets is not None:
            conditions = [{name: [int(targets[i])]} for i in samples]
            init_rel = None if is_relevance else 1.
        return attribution(
            data, conditions, composite if is_relevance else None, layers, init_rel=init_rel, exclude_parallel=False,
            heatmap=False,
        )

    for items in iterate_items(dataset, batch_size):
        samples = np.arange(first, first + len(items))
        first += len(items)
        pairs = [split_item(item) for item in items]
        data = join_samples([with_batch_axis(inputs) for inputs, _ in pairs], samples.tolist())
        results = {kind: attribute(data, samples, kind) for kind in kinds}
        prediction = next(iter(results.values())).prediction
        labels = {
            "target": _single_targets(pairs, groups),
            "prediction": prediction.argmax(1).tolist() if prediction.ndim == 2 else None,
        }
        if quantity == "relevance":
            chosen = results["relevance"].relevances
        else:
            chosen = next(iter(results.values())).activations
        saliency = results[align].relevances if align else dict.fromkeys(layers)
        yield _Batch(_names(groups, labels, samples, len(dataset)), {layer: (
            _channels_second(chosen[layer], axis), align and _channels_second(saliency[layer], axis)
        ) for layer in layers})


def _single_targets(pairs, groups) -> list[int] | None:
    if "target" not in _strings(groups):
        return None
    found = [list_targets(target) for _, target in pairs]
    if any(len(targets) != 1 for targets in found):
        raise ValueError("a sample has several targets: give one group per sample with groups=[...]")
    return [targets[0] for targets in found]


def _largest_output(output: torch.Tensor) -> torch.Tensor:
    return output * one_at_the_largest(output)
