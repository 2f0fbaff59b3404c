"""What a sweep found, if it is read with what it was made with; and what the pictures of it depend on."""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from zennit.core import Composite

from crp.model.inputs import call_model
from crp.model.samples import describe_error
from crp.store.fingerprint import fingerprint, probe_indices
from crp.store.folder import StoreError
from crp.store.legacy import LegacyResults, is_legacy_folder
from crp.store.place import is_sealed
from crp.store.reader import ReferenceStore
from crp.store.settings import check_reading, known_passing
from crp.sweeps.describe import (
    describe_attribution,
    describe_concept,
    describe_positions,
    describe_samples,
    describe_starts,
    readable_samples,
)
from crp.sweeps.model_answers import model_answers
from crp.sweeps.model_fingerprint import model_fingerprint
from crp.sweeps.rule_fingerprint import composite_fingerprint
from crp.sweeps.starts import Starts
from crp.visualization.swept_dataset import SweptDataset


def results_of(
    swept: SweptDataset, mode: str, composite: Composite | None = None, check: bool = True
) -> ReferenceStore | LegacyResults:
    """What was found before, if it was found with what it is now read with.

    Parameters
    ----------
    swept : SweptDataset
    mode : {"relevance", "activation"}
    composite : zennit.core.Composite, optional
    check : bool, default True
        Whether that is asked for.

    Raises
    ------
    StoreError
        If the model, the dataset or a concept is another one; where it is read for relevance, also if the attribution
        or the composite is.
    """
    if not is_sealed(swept.path) and is_legacy_folder(swept.path):
        return LegacyResults(swept.path)
    store = ReferenceStore(swept.path)
    if not check:
        return store
    passing = known_passing(store.manifest)
    try:
        settings = _checked_settings(swept, store, mode, composite, passing)
    except StoreError as different:
        if (unread := _unread_sample(swept)) is not None:
            raise StoreError(f"{different}. Sample {unread[0]} cannot be read: {unread[1]}") from different
        raise
    if store.manifest.settings.model.answers is not None:
        settings["model"]["answers"] = _answers(swept, settings)
        check_reading(store, settings)
    return store


def _checked_settings(
    swept: SweptDataset, store: ReferenceStore, mode: str, composite: Composite | None, passing: list[str]
) -> dict[str, Any]:
    """What results depend on, if it is as in the store, perhaps after the model has been run for the first time."""
    settings = _settings(swept, mode, composite, passing)
    try:
        check_reading(store, settings)
    except StoreError:
        if not _pass_a_sample(swept):
            raise
        settings = _settings(swept, mode, composite, passing)
        check_reading(store, settings)
    return settings


def _settings(swept: SweptDataset, mode: str, composite: Composite | None, passing: list[str]) -> dict[str, Any]:
    """What results of a mode depend on, as a store's manifest has it, apart from what the model answers."""
    load = functools.partial(swept.batches, on_error="skip")
    settings = {
        "model": model_fingerprint(swept.attribution.model, passing),
        "dataset": {
            "length": len(swept.dataset), **describe_samples(load, swept.probed),
            **describe_positions(swept.position_mask, next(readable_samples(load, len(swept.dataset)), None)),
        },
        "layers": [{"name": name, "concept": describe_concept(item)} for name, item in swept.layer_map.items()],
    }
    if mode == "relevance":
        starts = Starts(swept.attribution.MODEL_OUTPUT_NAME, swept.start_layer, swept.y)
        settings["attribution"] = describe_attribution(swept.attribution) | describe_starts(starts)
        if composite is not None:
            settings["composite"] = composite_fingerprint(composite, swept.attribution.model)
    return settings


_known_answers: WeakKeyDictionary[nn.Module, tuple[str, list[float] | None]] = WeakKeyDictionary()


def _answers(swept: SweptDataset, settings: dict[str, Any]) -> list[float] | None:
    """What the model answers, asked again where hashes of it or of samples have changed or leave out what passes do."""
    model, state = swept.attribution.model, fingerprint([settings["model"], settings["dataset"]])
    if settings["model"]["passing"] or _known_answers.get(model, ("", None))[0] != state:
        load = functools.partial(swept.batches, on_error="skip")
        _known_answers[model] = state, model_answers(model, load, len(swept.dataset))
    return _known_answers[model][1]


def _unread_sample(swept: SweptDataset) -> tuple[int, str] | None:
    """One of the samples that a store is recognised by which cannot be had, and why; None if all can."""
    for index in probe_indices(swept.probed):
        try:
            swept.get_data_sample(index)
        except Exception as error:  # whatever a dataset raises
            return index, describe_error(error)
    return None


def _pass_a_sample(swept: SweptDataset) -> bool:
    """Let the model make what it makes when it is first run, as it did in the sweep; whether that went well."""
    try:
        with torch.no_grad():
            call_model(swept.attribution.model, swept.get_data_sample(0)[0])
    except Exception:  # whatever a dataset or a model raises
        return False
    return True


def picture_key(
    swept: SweptDataset, results: ReferenceStore | LegacyResults, layer: str, mode: str, r_range: tuple[int, int],
    composite: Composite | None, rf: bool, plot_fn: Callable | None, targets: list[int] | None,
) -> dict[str, Any]:
    """Everything beside the concept that changes a picture of its references."""
    passing = known_passing(results.manifest) if isinstance(results, ReferenceStore) else ()
    indices = probe_indices(swept.probed)
    samples = [swept.get_data_sample(i, preprocessing) for i in indices for preprocessing in (False, True)]
    return {
        "results": results.identity(), "model": model_fingerprint(swept.attribution.model, passing),
        "attribution": describe_attribution(swept.attribution), "axis": swept.attribution.heatmap_axis,
        "class": type(swept).__name__, "samples": fingerprint(samples), "layer": layer,
        "concept": fingerprint(swept.layer_map[layer]), "mode": mode, "range": list(map(int, r_range)),
        "max_target": swept.max_target, "abs_norm": swept.abs_norm, "targets": targets, "rf": bool(rf),
        "composite": None if composite is None else fingerprint(composite), "plot_fn": fingerprint(plot_fn),
        "preprocess_fn": fingerprint(swept.preprocess_fn), "start_layer": swept.start_layer,
        "position_mask": fingerprint(swept.position_mask),
    }
