"""Pictures of what a store holds, written to a folder."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from crp.analysis import ResponseMap, TopographicMap, contrast, find_patterns, group_profiles
from crp.store import ReferenceStore, StoreError


def report_patterns(
    store: ReferenceStore, folder: str | Path, layers: list[str] | None = None, quantity: str = "activation",
    **options: Any,
) -> Iterator[str]:
    """Find patterns, keep them in the store, and draw them.

    Parameters
    ----------
    store : ReferenceStore
    folder : str or Path
        Where the pictures go: per layer the patterns by class, and the typical units of the five most persistent.
    layers : list of str, optional
        By default all.
    quantity : {"activation", "relevance"}
    **options
        As for :func:`crp.analysis.find_patterns`.

    Yields
    ------
    str
        What was found in a layer, and where the pictures are.
    """
    for layer in store.layers if layers is None else layers:
        patterns = find_patterns(store, layer, quantity, **options)
        patterns.save(store)
        stem = f"{store.entry(layer).key}-{quantity}"
        if len(patterns):
            _save(patterns.plot(_targets_if_single(store, quantity)), folder, f"{stem}-patterns")
            for pattern in range(min(5, len(patterns))):
                _save(patterns.plot_units(pattern), folder, f"{stem}-pattern-{pattern}")
        yield f"{layer}: {patterns}" + (f"; pictures: {stem}-*.png" if len(patterns) else "")


def report_maps(
    store: ReferenceStore, folder: str | Path, layers: list[str] | None = None, quantity: str = "activation",
    method: str = "tsne",
) -> Iterator[str]:
    """Draw a topographic map of each layer per class, as contrasts, and a response map of all layers per class.

    Parameters
    ----------
    store : ReferenceStore
    folder : str or Path
        Where the pictures go.
    layers : list of str, optional
        By default all.
    quantity : {"activation", "relevance"}
    method : {"tsne", "umap", "pca"}
        Of the topographic maps.

    Yields
    ------
    str
        What was drawn.
    """
    layers = store.layers if layers is None else layers
    profiles = group_profiles(store, layers=layers, quantity=quantity)
    apart = contrast(profiles)
    for layer in layers:
        name = f"{store.entry(layer).key}-{quantity}-map"
        _save(TopographicMap(method).fit(profiles, layer).plot(profiles=apart, arrange="grid"), folder, name)
        yield f"{layer}: {profiles[layer].shape[1]} channels, a map per class; picture: {name}.png"
    response_map = ResponseMap().fit_store(store, layers, quantity).round()
    targets = store.targets_of_rows(quantity)
    for group in profiles.groups:
        rows = targets == int(group)
        values = {layer: store.values(layer, quantity)[rows.nonzero()[0]] for layer in layers}
        _save(response_map.plot(values, "linear"), folder, f"{quantity}-responses-{group}")
    yield f"{response_map} of {len(layers)} layers; pictures: {quantity}-responses-*.png"


def _targets_if_single(store: ReferenceStore, quantity: str) -> np.ndarray | None:
    try:
        return store.targets_of_rows(quantity)
    except StoreError:  # of samples with several
        return None


def _save(figure: Figure, folder: str | Path, name: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    figure.savefig(Path(folder) / f"{name}.png", dpi=110)
    plt.close(figure)
