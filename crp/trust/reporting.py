"""Checking a layer of a model and of its store."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from zennit.core import Composite

from crp.attribution.audit import Audit
from crp.concepts import EncodedConcept
from crp.model.numbers import spread_evenly
from crp.model.targets import Start
from crp.model.training import modules_in_training
from crp.neurons.rank_units import rank
from crp.rules.composites import default_composite
from crp.rules.restoring import TensorState, run_undone
from crp.store.reader import ReferenceStore
from crp.trust import checks, semantics
from crp.trust.arguments import checked_seed, chosen_concepts
from crp.trust.clearness import clearness
from crp.trust.crops import EmbedImages, embedded_crops, reference_crops
from crp.trust.flipping import flip_concepts, remove_each
from crp.trust.intervals import mean_of_rows
from crp.trust.randomisation import as_shares, column_correlation, randomise_above, row_correlation, shaken
from crp.trust.report import COLUMNS, TrustReport
from crp.trust.resampling import halves_agree
from crp.trust.rows import SampledRows
from crp.visualization.feature_visualization import FeatureVisualization

_AUDITED = 8
_SPLITS = 20


def trust_report(
    fv: FeatureVisualization, layer: str, concepts: Any = None, composite: Composite | None = None, *,
    held_out: Any = None, samples: int = 64, per_concept: int = 4, steps: int = 10, random: int = 8, draws: int = 3,
    noise: float = .05, references: int = 8, embed_images: EmbedImages | None = None, batch_size: int = 64,
    random_state: int | None = 0, save: bool = True, verbose: bool = True,
) -> TrustReport:
    """Check whether a layer's relevance and its concepts can be trusted, against intervals and random controls.

    Five questions, each answered for the layer and, where that makes sense, for each concept:

    - *closed*: does relevance add up? The audit of the composite, from the output to the input.
    - *faithful*: do answers follow? Concepts are removed and inserted, the most relevant of each row first, beside
      orders by activation and at random; and each concept is taken away by itself.
    - *sane*: does relevance depend on what was learned? The weights above the layer are drawn anew.
    - *stable*: do small noise and other samples leave things as they are?
    - *clear*: are concepts of one class, sparse, alive, different from each other; with ``embed_images`` also clear,
      not redundant and not polysemantic, as SemanticLens defines these.

    Parameters
    ----------
    fv : FeatureVisualization
        With the store of a finished sweep that keeps its matrices.
    layer : str
    concepts : int, list, array or tensor of int, optional
        Which concepts the table shall have; by default all of the layer.
    composite : zennit.core.Composite, optional
        The rules of the sweep; by default those of ``crp.composites.default_composite``.
    held_out : sequence, optional
        Items as in the dataset that the model has not seen in training, to run it on; by default those of the sweep.
    samples : int, default 64
        How many of them, taken evenly.
    per_concept : int, default 4
        At how many rows each concept is taken away by itself.
    steps : int, default 10
        Steps of removing and inserting.
    random : int, default 8
        Random orders, each in both directions.
    draws : int, default 3
        How often weights are drawn anew, and noise.
    noise : float, default 0.05
        Standard deviation of the noise, in units of that of the inputs.
    references : int, default 8
        Reference samples of each concept.
    embed_images : callable, optional
        Pictures [n] (``PIL.Image``) -> [n, d]: CLIP, DINO or any other.
    batch_size : int, default 64
    random_state : int or None, default 0
        Of all that is drawn.
    save : bool, default True
        Whether the store keeps the report: ``TrustReport.load(store, layer)``.
    verbose : bool, default True
        Whether to show progress bars.

    Returns
    -------
    TrustReport

    Raises
    ------
    ValueError, TypeError, IndexError
        If the layer or a concept does not exist, or concepts cannot be taken away one by one.
    StoreError
        If there is no store of this model, dataset, composite and layer, or it keeps no matrices.

    References
    ----------
    R. Achtibat et al. (2023). From attribution maps to human-understandable explanations through Concept Relevance
    Propagation. Nature Machine Intelligence 5, 1006-1019.

    J. Adebayo et al. (2018). Sanity Checks for Saliency Maps. NeurIPS.

    A. Hedström et al. (2024). A Fresh Look at Sanity Checks for Saliency Maps. xAI.

    M. Dreyer et al. (2025). Mechanistic understanding and validation of large AI models with SemanticLens. Nature
    Machine Intelligence 7, 1572-1585.
    """
    counts = {"samples": samples, "per_concept": per_concept, "steps": steps, "random": random, "draws": draws,
              "references": references, "batch_size": batch_size}
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"{name} is a whole number and at least 1, not {value!r}")
    if not noise > 0:
        raise ValueError(f"noise is above 0, not {noise!r}")
    if not isinstance(fv, FeatureVisualization):
        raise TypeError(f"a report needs the model and the samples: a FeatureVisualization, not a {type(fv).__name__}")
    if embed_images is not None and (not callable(embed_images) or references < 2):
        raise ValueError("embed_images is a function of pictures, and compares two references at least")
    random_state = checked_seed(random_state)
    training = modules_in_training(fv.attribution.model)
    if training:
        raise ValueError(f"modules are in train mode, such as {training[0]!r}, and answer differently each time: call "
                         "model.eval()")
    composite = default_composite(fv.attribution.model) if composite is None else composite
    store = fv.open_store(composite, layer=layer)
    store.values(layer)  # a store without matrices says so at once
    ids = chosen_concepts(store, layer, concepts)

    def check() -> TrustReport:
        return _checked(
            fv, store, layer, ids, composite, held_out, counts, noise, embed_images, random_state, verbose
        )

    report = run_undone(check, TensorState(fv.attribution.model).restore)
    if save:
        report.save(store)
    return report


def _checked(
    fv: FeatureVisualization, store: ReferenceStore, layer: str, ids: np.ndarray, composite: Composite, held_out: Any,
    counts: dict[str, int], noise: float, embed_images: EmbedImages | None, random_state: int | None, verbose: bool,
) -> TrustReport:
    """The report, of arguments that can be."""
    samples, per_concept, steps, random, draws, references, batch_size = counts.values()
    rows = SampledRows(fv, layer, composite, held_out, samples, batch_size)
    flipping = flip_concepts(rows, steps, random, random_state, verbose)
    single = remove_each(rows, ids, per_concept, batch_size, random_state, verbose)
    randomisation = randomise_above(rows, draws, random_state)
    noisy = shaken(rows, noise, draws, random_state)
    kept = _mean([row_correlation(rows.relevance, found) for found in noisy], len(rows))
    order_kept = mean_of_rows(kept, random_state)
    agreement, control = halves_agree(store, layer, ids, references, _SPLITS, random_state)
    clearness_found = clearness(store, layer)
    columns = {
        "concept": ids, **_shares(store, layer, ids), "effect": single.effect, "effect_lower": single.lower,
        "effect_upper": single.upper, "effect_control": single.control,
        "randomised": _of_concepts(rows, randomisation.relevances)[ids], "noise": _of_concepts(rows, noisy)[ids],
        "references": agreement, "references_control": control,
        **{name: getattr(clearness_found, name)[ids] for name in (
            "purity", "serves", "entropy", "sparsity", "silent", "peak", "nearest", "similarity", "dead", "duplicate",
        )},
        **_semantics(fv, layer, ids, references, composite, embed_images),
    }
    for name in ("references", "references_control", "clarity", "redundancy", "polysemanticity"):
        columns[name] = np.where(columns["dead"], np.nan, columns[name])  # whose references are samples like any other
    audit, total, remainder = _audit(rows)
    found = [
        checks.closed(audit, total, remainder), checks.faithful(flipping, rows.relevance.shape[1]),
        checks.sane(randomisation, order_kept), checks.stable(order_kept, bool(noisy), agreement, control),
        checks.clear(clearness_found, ids, columns["clarity"]),
    ]
    curves = {"fraction": flipping.fractions, "random": flipping.random}
    curves |= {f"removed_{order}": curve for order, curve in flipping.removed.items()}
    curves |= {f"inserted_{order}": curve for order, curve in flipping.inserted.items()}
    options = counts | {"noise": float(noise), "held_out": held_out is not None, "random_state": random_state,
                        "embedded": embed_images is not None}
    return TrustReport(
        layer, {name: columns[name] for name in COLUMNS}, checks.sentences(columns, fv.class_names), found, curves,
        len(rows), options, store.identity(),
    )


def _shares(store: ReferenceStore, layer: str, ids: np.ndarray) -> dict[str, np.ndarray]:
    ranking = rank(store, by="relevance", layers=layer)
    place = np.argsort(ranking.order)[ids]
    assert ranking.interval is not None
    lower, upper = ranking.interval[place].T
    return {"share": ranking.scores[place], "share_lower": lower, "share_upper": upper}


def _of_concepts(rows: SampledRows, others: list[np.ndarray]) -> np.ndarray:
    """[concepts], how the shares of each correlate over the rows with those of other passes."""
    shares = as_shares(rows.relevance)
    return _mean([column_correlation(shares, as_shares(found)) for found in others], shares.shape[1])


def _mean(parts: Iterable[np.ndarray], length: int) -> np.ndarray:
    """The mean of arrays [length]; NaN if there are none."""
    found = list(parts)
    return np.mean(found, axis=0) if found else np.full(length, np.nan)


def _semantics(
    fv: FeatureVisualization, layer: str, ids: np.ndarray, references: int, composite: Composite,
    embed_images: EmbedImages | None,
) -> dict[str, np.ndarray]:
    if embed_images is None:
        return {name: np.full(len(ids), np.nan) for name in ("clarity", "redundancy", "polysemanticity")}
    embeddings = embedded_crops(reference_crops(fv, layer, ids.tolist(), references, composite), embed_images)
    return {
        "clarity": semantics.clarity(embeddings), "redundancy": semantics.redundancy(embeddings),
        "polysemanticity": semantics.polysemanticity(embeddings),
    }


def _audit(rows: SampledRows) -> tuple[Audit, float, float]:
    """The audit of a few rows, and the parts of their relevance that are in the layer and in its remainder."""
    batch = max(rows.batches, key=len)
    batch = batch.take(spread_evenly(len(batch), _AUDITED))
    conditions = None
    if batch.targets[0] != Start.PREDICTION:
        conditions = [{rows.attribution.MODEL_OUTPUT_NAME: outputs} for outputs in batch.outputs]
    audit = rows.attribution.audit(batch.inputs, rows.composite, conditions, start_layer=rows.starts.start_layer)

    def part(relevance: np.ndarray) -> float:
        """Of 1 at the output: each row counts by what it started with, whose signs do not cancel."""
        return float(relevance @ batch.started / (batch.started @ batch.started)) if batch.started.any() else np.nan

    remainder = part(batch.relevance[:, -1]) if isinstance(rows.concept, EncodedConcept) else np.nan
    return audit, part(batch.relevance.sum(1)), remainder
