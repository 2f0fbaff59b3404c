"""Values of samples and the groups that these belong to, in batches: from a store, a model, arrays or a folder."""
from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from zennit.core import Composite

from crp.attribution.conditional import CondAttribution
from crp.attribution.conditions import one_at_the_largest, value_of_the_largest
from crp.attribution.passes import AttributionResult
from crp.attribution.steps import InitialRelevance
from crp.concepts.padding import axes_of_positions, where_counted
from crp.model.arrays import as_array
from crp.model.inputs import Inputs
from crp.model.positions import PositionMask, counting_positions
from crp.model.samples import iterate_items, join_samples, split_item, with_batch_axis
from crp.model.targets import list_targets
from crp.rules.attach import check_nothing_registered
from crp.store.folder import opened
from crp.store.foreign import mapped_array, parts_within
from crp.store.reader import ReferenceStore

_CORPUS = "corpus.csv"


class Maps(NamedTuple):
    """Values of a layer [B, C, positions...], their saliency, and which count [B, 1, positions...], if not all do."""

    values: np.ndarray
    saliency: np.ndarray | None = None
    counts: np.ndarray | None = None


class Batch(NamedTuple):
    """Some samples: the names of the groups of each, and what each layer does."""

    groups: list[list[str]]
    layers: dict[str, Maps]


def _names(groups: Any, labels_of: dict[str, Any], samples: np.ndarray, length: int | None = None) -> list[list[str]]:
    """Names of the groups of each row; ``labels_of`` has one label per row, ``samples`` the row's sample."""
    if not isinstance(groups, Mapping):
        return [[str(label)] for label in _labels(groups, labels_of, samples, length)]
    kinds = [[f"{kind}={label}" for label in _labels(of, labels_of, samples, length)] for kind, of in groups.items()]
    return [list(names) for names in zip(*kinds)]


def _strings(groups: Any) -> list[str]:
    """The groups that are named instead of given label by label."""
    return [of for of in (groups.values() if isinstance(groups, Mapping) else [groups]) if isinstance(of, str)]


def _labels(groups: Any, labels_of: dict[str, Any], samples: np.ndarray, length: int | None) -> list[Any]:
    if isinstance(groups, str):
        if labels_of.get(groups) is None:
            raise ValueError(f"groups is 'target', 'prediction' or one label per sample, not {groups!r}")
        return list(labels_of[groups])
    labels = [label.item() if isinstance(label, (torch.Tensor, np.generic)) else label for label in groups]
    if len(labels) != (length or len(labels)) or len(labels) <= samples.max():
        raise ValueError(f"groups holds {len(labels)} labels, but there are {length or samples.max() + 1} samples")
    return [labels[i] for i in samples]


def batches_of_store(
    store: ReferenceStore, groups: Any, layers: list[str] | None, quantity: str
) -> Iterator[Batch]:
    """Rows of a store."""
    rows = store.rows(quantity)
    labels = {"prediction": rows["prediction"]}
    if "target" in _strings(groups):
        labels["target"] = store.targets_of_rows(quantity)
    names = _names(groups, labels, rows["sample"], store.manifest.settings.dataset.length)
    layers = store.layers if layers is None else layers
    blocks = zip(*(store.values(layer, quantity).blocks() for layer in layers))
    first = 0
    for values in blocks:
        stop = first + len(values[0])
        yield Batch(names[first:stop], {layer: Maps(block) for layer, block in zip(layers, values)})
        first = stop


def batches_of_arrays(
    activations: Mapping[str, Any], gradients: Mapping[str, Any] | None, groups: Any, layers: list[str] | None,
    align: str | None, axis: int,
) -> Iterator[Batch]:
    """Arrays that the caller has: layer -> [N, C, positions...]."""
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
    saliency = {}
    if align is not None and gradients is not None:
        saliency = {layer: _channels_second(gradients[layer], axis) for layer in layers}
    for first in range(0, count, 1024):
        part = slice(first, first + 1024)
        yield Batch(names[part], {
            layer: Maps(array[part], saliency[layer][part] if saliency else None) for layer, array in values.items()
        })


def _channels_second(array: Any, axis: int) -> np.ndarray:
    array = as_array(array)
    if array.ndim < 2:
        raise ValueError(f"values are [samples, channels, ...], not of the shape {array.shape}")
    return np.moveaxis(array, axis, 1)


def batches_of_folder(
    folder: Path, groups: Any, layers: list[str] | None, align: str | None, axis: int
) -> Iterator[Batch]:
    """Arrays in the files of a folder."""
    corpus, lines = folder / _CORPUS, _lines_of_corpus(folder)
    groups = "group" if isinstance(groups, str) and groups == "target" and not _has_column(lines, "target") else groups
    for column in ("file", *([groups] if isinstance(groups, str) else [])):
        if not _has_column(lines, column):
            raise ValueError(f"{corpus} has no column {column!r}, no lines, or one without it")
    if layers is None:
        with opened(folder) as found:
            layers = [name for name in found.names() if name != "gradients" and found.kind(name) != "a file"]
    needed = [
        folder.joinpath(part, layer, *parts_within(folder, line["file"])) for line in lines for layer in layers
        for part in ([""] if align is None else ["", "gradients"])
    ]
    missing = [str(path) for path in needed if not os.path.exists(path)]
    if missing:
        raise FileNotFoundError(f"{len(missing)} files that {corpus} names are missing, as {missing[0]}")
    done = 0
    for line in lines:
        arrays = {layer: _channels_second(mapped_array(folder, f"{layer}/{line['file']}"), axis) for layer in layers}
        saliency = {
            layer: None if align is None else _channels_second(
                mapped_array(folder, f"gradients/{layer}/{line['file']}"), axis
            ) for layer in layers
        }
        lengths = {len(array) for array in (*arrays.values(), *saliency.values()) if array is not None}
        if len(lengths) != 1:
            raise ValueError(f"the batches {line['file']!r} of the layers differ in length: {sorted(lengths)}")
        count = lengths.pop()
        labels: dict[str, Any] = {column: [line[column]] * count for column in ("group", "target") if column in line}
        names = _names(groups, labels, np.arange(done, done + count))
        done += count
        yield Batch(names, {layer: Maps(arrays[layer], saliency[layer]) for layer in layers})


def _lines_of_corpus(folder: Path) -> list[dict[str, Any]]:
    """The table that says which files there are, a line per batch."""
    try:
        with opened(folder) as found, io.TextIOWrapper(found.read(_CORPUS), "utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{folder / _CORPUS} is missing: a table with the columns file and group, and a line per batch"
        ) from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{folder / _CORPUS} cannot be read: {error}") from None


def _has_column(lines: list[dict[str, Any]], column: str) -> bool:
    return bool(lines) and all(line.get(column) is not None for line in lines)


def batches_of_model(
    attribution: CondAttribution, dataset: Any, groups: Any, layers: list[str] | None, quantity: str,
    align: str | None, composite: Composite | None, targets: Any, axis: int, batch_size: int,
    position_mask: PositionMask,
) -> Iterator[Batch]:
    """What a model does to the samples of a dataset."""
    if not layers:
        raise ValueError("layers says of which layers: layers=['layer4', ...]")
    if composite is None and "relevance" in (quantity, align):
        raise ValueError("relevance needs a composite: group_profiles(..., composite=EpsilonPlusFlat())")
    kinds = sorted({kind for kind in (quantity, align) if kind in ("relevance", "gradient")}) or ["gradient"]
    if "gradient" in kinds:
        check_nothing_registered(attribution.model)
    name, first = attribution.MODEL_OUTPUT_NAME, 0

    def attribute(data: Inputs, samples: np.ndarray, kind: str) -> AttributionResult:
        """Activations, with relevance or gradients, of the largest output or the given one."""
        is_relevance = kind == "relevance"
        conditions: list[dict] = [{}] * len(samples)
        init_rel: InitialRelevance = value_of_the_largest if is_relevance else one_at_the_largest
        if targets is not None:
            conditions = [{name: [int(targets[i])]} for i in samples]
            init_rel = None if is_relevance else 1.
        return attribution(
            data, conditions, composite if is_relevance else None, layers, init_rel=init_rel, exclude_parallel=False,
            heatmap=False,
        )

    def shapes_of(data: Inputs) -> dict[str, torch.Size]:
        result = attribution(data, [{}], None, layers, init_rel=torch.zeros_like, exclude_parallel=False, heatmap=False)
        return {layer: tensor.shape for layer, tensor in result.activations.items()}

    axes: dict[str, tuple[int, ...]] | None = None
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
        saliency = {} if align is None else results[align].relevances
        counts = counting_positions(position_mask, data)
        counting = {}
        if counts is not None:
            if axes is None:
                axes = axes_of_positions(position_mask, data, shapes_of)
            counting = {layer: where_counted(counts, of, chosen[layer].ndim) for layer, of in axes.items()}
        yield Batch(_names(groups, labels, samples, len(dataset)), {layer: Maps(
            _channels_second(chosen[layer], axis),
            *(_channels_second(of[layer], axis) if layer in of else None for of in (saliency, counting)),
        ) for layer in layers})


def _single_targets(pairs: list[tuple[Any, Any]], groups: Any) -> list[int] | None:
    if "target" not in _strings(groups):
        return None
    found = [list_targets(target) for _, target in pairs]
    several = any(len(targets) != 1 for targets in found)
    if several or any(targets[0] < 0 for targets in found):
        what = "several targets" if several else "no class as target"
        raise ValueError(f"a sample has {what}: give one group per sample with groups=[...]")
    return [targets[0] for targets in found]

