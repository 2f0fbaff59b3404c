"""Pictures of what a store holds, written to a folder."""
from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from tqdm import tqdm

from crp.analysis import Patterns, ResponseMap, TopographicMap, contrast, find_patterns, group_profiles
from crp.cli.concept_answers import MapOfLayer, MapsAnswer, Pattern, PatternsAnswer, PatternsOfLayer
from crp.cli.questions import ClassNames
from crp.store import ReferenceStore, StoreError

MOST_COUNTED, MOST_DRAWN, MOST_SAMPLES = 20, 5, 8


def report_patterns(
    store: ReferenceStore, folder: str | Path, layers: list[str] | None = None, quantity: str = "relevance",
    names: ClassNames | None = None, **options: Any,
) -> PatternsAnswer:
    """Find patterns, keep them in the store, and draw them.

    Parameters
    ----------
    store : ReferenceStore
    folder : str or Path
        Where the pictures go: per layer the patterns by class, and the typical units of the five most persistent.
    layers : list of str, optional
        By default all.
    quantity : {"relevance", "activation"}
    names : ClassNames, optional
        By default numbers.
    **options
        As for :func:`crp.analysis.find_patterns`.
    """
    layers, names = _known(store, layers), names or ClassNames()
    found = []
    for layer in tqdm(layers, "patterns of layers", disable=len(layers) < 2):
        patterns = find_patterns(store, layer, quantity, **options)
        patterns.save(store)
        targets = _targets_if_single(store, quantity)
        classes = None if targets is None else names.labels(targets)
        pictures = _draw(patterns, classes, Path(folder), _stem(store, layer, quantity)) if len(patterns) else []
        found.append(PatternsOfLayer(
            layer=layer, rows=len(patterns.labels), noise=int(np.sum(patterns.labels < 0)),
            patterns=_describe(patterns, classes), counted=min(MOST_COUNTED, len(patterns)),
            drawn=min(MOST_DRAWN, len(patterns)), pictures=pictures,
        ))
    return PatternsAnswer(store=store.path, quantity=quantity, layers=found)


def _describe(patterns: Patterns, classes: np.ndarray | None) -> list[Pattern]:
    counted: list[dict[str, int]] = [{} for _ in range(len(patterns))]
    if classes is not None:
        names, counts = patterns.label_counts(classes)
        counted = [{str(names[i]): int(row[i]) for i in np.flatnonzero(row)} for row in counts]
    return [
        Pattern(
            pattern=i, rows=patterns.sizes[i], persistence=patterns.persistence[i], classes=counted[i],
            samples=patterns.samples[patterns.most_stable(i, MOST_SAMPLES)].tolist(),
        ) for i in range(len(patterns))
    ]


def _draw(patterns: Patterns, classes: np.ndarray | None, folder: Path, stem: str) -> list[Path]:
    return [
        _save(patterns.plot(classes, MOST_COUNTED), folder, f"{stem}-patterns"),
        *(_save(patterns.plot_units(i), folder, f"{stem}-pattern-{i}") for i in range(min(MOST_DRAWN, len(patterns)))),
    ]


def report_maps(
    store: ReferenceStore, folder: str | Path, layers: list[str] | None = None, quantity: str = "relevance",
    names: ClassNames | None = None, method: str = "tsne",
) -> MapsAnswer:
    """Draw a topographic map of each layer per class, as contrasts, and a response map of all layers per class.

    Parameters
    ----------
    store : ReferenceStore
    folder : str or Path
        Where the pictures go.
    layers : list of str, optional
        By default all.
    quantity : {"relevance", "activation"}
    names : ClassNames, optional
        By default numbers.
    method : {"tsne", "umap", "pca"}
        Of the topographic maps.
    """
    layers, names = _known(store, layers), names or ClassNames()
    profiles = group_profiles(store, layers=layers, quantity=quantity)
    named = [names[int(group)] for group in profiles.groups]
    apart = replace(contrast(profiles), groups=named)
    found = []
    for layer in tqdm(layers, "maps of layers", disable=len(layers) < 2):
        figure = TopographicMap(method).fit(profiles, layer).plot(profiles=apart, arrange="grid")
        picture = _save(figure, Path(folder), f"{_stem(store, layer, quantity)}-map")
        found.append(MapOfLayer(layer=layer, channels=profiles[layer].shape[1], picture=picture))
    response_map = ResponseMap().fit_store(store, layers, quantity).round()
    targets, responses = store.targets_of_rows(quantity), {}
    for group, name in zip(profiles.groups, named):
        rows = np.flatnonzero(targets == int(group))
        values = {layer: store.values(layer, quantity)[rows] for layer in layers}
        stem = "-".join(dict.fromkeys([f"{quantity}-responses", group, _in_file_name(name)]))
        title = f"{quantity} of class {name}: {len(response_map.neurons)} concepts of {', '.join(layers)}"
        responses[name] = _save(response_map.plot(values, "linear", title=title), Path(folder), stem)
    return MapsAnswer(store=store.path, quantity=quantity, layers=found, responses=responses)


def _known(store: ReferenceStore, layers: list[str] | None) -> list[str]:
    layers = store.layers if layers is None else layers
    for layer in layers:
        store.entry(layer)  # refuses layers that are not there
    return layers


def _stem(store: ReferenceStore, layer: str, quantity: str) -> str:
    """What the names of a layer's pictures begin with: sorted as the layers are, and different for each."""
    return f"{store.entry(layer).key}-{_in_file_name(layer)}-{quantity}"


def _in_file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text)[:60]


def _targets_if_single(store: ReferenceStore, quantity: str) -> np.ndarray | None:
    try:
        return store.targets_of_rows(quantity)
    except StoreError:  # of samples with several
        return None


def _save(figure: Figure, folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.png"
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return file
