"""Is relevance sane? It should change where the weights above a layer know nothing, and not where the input shivers."""
from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from crp.model.inputs import call_model, copied_inputs, list_tensors, map_tensors
from crp.model.layers import resolve_layer
from crp.neurons.words import draw_weights_anew
from crp.trust.intervals import Estimate, mean_of_rows
from crp.trust.rows import SampledRows


@dataclass(frozen=True, eq=False)
class Randomisation:
    """What becomes of a layer's relevance if all weights above it are drawn anew.

    Attributes
    ----------
    correlation : Estimate
        Mean rank correlation of the concepts' relevance before and after, row by row (model parameter randomisation
        test, MPRT): near 0 where relevance depends on what was learned. All unknown where nothing is above the layer.
    complexity : Estimate
        How much more spread out relevance is afterwards: the rise of its entropy over the concepts, in units of the
        entropy before (efficient MPRT).
    modules : int
        How many modules were drawn anew.
    relevances : list of numpy.ndarray
        [rows, concepts], the relevance after each draw.
    """

    correlation: Estimate
    complexity: Estimate
    modules: int
    relevances: list[np.ndarray]


def randomise_above(rows: SampledRows, draws: int, random_state: int | None) -> Randomisation:
    """Draw all weights above a layer anew, several times, and compare the relevance.

    Parameters
    ----------
    rows : SampledRows
    draws : int
    random_state : int or None

    References
    ----------
    J. Adebayo et al. (2018). Sanity Checks for Saliency Maps. NeurIPS.
    A. Hedström et al. (2024). A Fresh Look at Sanity Checks for Saliency Maps. xAI.
    """
    names = modules_above(rows)
    before = rows.relevance
    correlations, rises, relevances = [], [], []
    seeds = np.random.default_rng(random_state).integers(2 ** 31, size=draws).tolist() if names else []
    for seed in seeds:
        attribution = copy.deepcopy(rows.attribution)
        draw_weights_anew([attribution.model.get_submodule(name) for name in names], seed)
        after = rows.relevance_with(attribution)
        relevances.append(after)
        correlations.append(row_correlation(before, after))
        entropy = _entropy(before)
        rises.append((_entropy(after) - entropy) / np.where(entropy > 0, entropy, np.nan))
    if not correlations:
        return Randomisation(Estimate.unknown(), Estimate.unknown(), 0, [])
    correlation, complexity = (
        mean_of_rows(np.mean(parts, axis=0), random_state) for parts in (correlations, rises)
    )
    return Randomisation(correlation, complexity, len(names), relevances)


def modules_above(rows: SampledRows) -> list[str]:
    """Names of the modules with parameters of their own that begin after the layer has ended, in a forward pass."""
    model = rows.attribution.model
    address = resolve_layer(model, rows.layer)
    moments: list[nn.Module | None] = []
    handles = [
        module.register_forward_pre_hook(lambda module, *_: moments.append(module)) for module in model.modules()
    ]
    if not address.is_input:
        handles.append(address.module.register_forward_hook(lambda *_: moments.append(None)))
    try:
        with torch.no_grad():
            call_model(model, copied_inputs(rows.batches[0].inputs, rows.attribution.device))
    finally:
        for handle in handles:
            handle.remove()
    end = moments.index(address.module) if address.is_input else len(moments) - 1 - moments[::-1].index(None)
    above = {module for module in moments[end:] if module is not None} - set(moments[:end])
    return [name for name, module in model.named_modules()
            if module in above and next(module.parameters(recurse=False), None) is not None]


def shaken(rows: SampledRows, noise: float, draws: int, random_state: int | None) -> list[np.ndarray]:
    """The relevance [rows, concepts] of inputs with small noise, several times; nothing where inputs are integers.

    Parameters
    ----------
    rows : SampledRows
    noise : float
        Its standard deviation, in units of that of all inputs.
    draws : int
    random_state : int or None
    """
    leaves = [leaf for batch in rows.batches for leaf in _floating(batch.inputs)]
    if not leaves:
        return []
    spread = float(torch.cat([leaf.detach().flatten().double().cpu() for leaf in leaves]).std())
    generator = torch.Generator().manual_seed(0 if random_state is None else random_state)
    if random_state is None:
        generator.seed()

    def shake(inputs: Any) -> Any:
        def add(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            return tensor + noise * spread * torch.randn(tensor.shape, generator=generator).to(tensor)

        return map_tensors(add, inputs)

    return [rows.relevance_with(rows.attribution, shake) for _ in range(draws)]


def _floating(inputs: Any) -> list[Tensor]:
    return [tensor for tensor in list_tensors(inputs) if tensor.is_floating_point()]


def row_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[rows], rank correlation of two arrays [rows, concepts], row by row, over concepts that are not zero in both.

    NaN for rows with less than three of them, or with one value only.
    """
    found = np.full(len(first), np.nan)
    for row, (one, other) in enumerate(zip(first, second)):
        alive = (one != 0) | (other != 0)
        if alive.sum() < 3:
            continue
        ranks = [rankdata(values[alive]) for values in (one, other)]
        ranks = [values - values.mean() for values in ranks]
        lengths = np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1])
        if lengths > 0:
            found[row] = ranks[0] @ ranks[1] / lengths
    return found


def column_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[concepts], correlation of two arrays [rows, concepts], column by column; NaN for constant ones."""
    one, other = (values - values.mean(0) for values in (first, second))
    lengths = np.linalg.norm(one, axis=0) * np.linalg.norm(other, axis=0)
    return np.divide((one * other).sum(0), lengths, out=np.full(first.shape[1], np.nan), where=lengths > 0)


def _entropy(relevance: np.ndarray) -> np.ndarray:
    """[rows], entropy of the shares of absolute relevance."""
    amounts = np.abs(relevance)
    sums = amounts.sum(1, keepdims=True)
    shares = np.divide(amounts, sums, out=np.zeros_like(amounts), where=sums > 0)
    return -(shares * np.log(shares, out=np.zeros_like(shares), where=shares > 0)).sum(1)
