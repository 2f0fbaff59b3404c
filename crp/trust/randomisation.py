"""Is relevance sane? It should change where the weights above a layer know nothing, and not where the input shivers."""
from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from crp.attribution.conditional import CondAttribution
from crp.model.inputs import call_model, copied_inputs, list_tensors, map_tensors
from crp.model.layers import resolve_layer, select_output
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
        _draw_anew(attribution.model, names, seed)
        if not _answers_otherwise(rows, attribution):
            continue
        after = rows.relevance_with(attribution)
        relevances.append(after)
        correlations.append(row_correlation(before, after))
        entropy = _entropy(before)
        rises.append((_entropy(after) - entropy) / np.where(entropy > 0, entropy, np.nan))
    if not correlations:
        return Randomisation(Estimate.unknown(), Estimate.unknown(), len(names), [])
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
    begun = set(moments[:end])
    called = {module for module in moments[end:] if module is not None} - begun
    above = {part for module in called for part in module.modules()} - begun  # parts whose weights others read as well
    return [name for name, module in model.named_modules()
            if module in above and next(module.parameters(recurse=False), None) is not None]


def _draw_anew(model: nn.Module, names: list[str], seed: int) -> None:
    """Draw parameters of modules anew; those that this leaves as they are get another order, and those that other
    modules have too are left alone.
    """
    modules = [model.get_submodule(name) for name in names]
    others = {id(parameter) for module in model.modules() if module not in modules
              for parameter in module.parameters(recurse=False)}
    own = [parameter for module in modules for parameter in module.parameters(recurse=False)]
    before = [parameter.detach().clone() for parameter in own]
    draw_weights_anew(modules, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter, value in zip(own, before):
            if id(parameter) in others:
                parameter.copy_(value)
            elif torch.equal(parameter, value):  # as with weights that are computed from these
                order = torch.randperm(value.numel(), generator=generator).to(value.device)
                parameter.copy_(value.flatten()[order].view(value.shape))


def _answers_otherwise(rows: SampledRows, attribution: CondAttribution) -> bool:
    """Whether a model with other weights answers otherwise, so that they were used."""
    inputs = rows.batches[0].inputs
    with torch.no_grad():
        before, after = (
            select_output(call_model(of.model, copied_inputs(inputs, of.device)), of.output, of.MODEL_OUTPUT_NAME)
            for of in (rows.attribution, attribution)
        )
    return not torch.allclose(before, after, rtol=1e-5, atol=0)


def shaken(rows: SampledRows, noise: float, draws: int, random_state: int | None) -> list[np.ndarray]:
    """The relevance [rows, concepts] of inputs with small noise, several times; nothing where inputs are integers.

    Parameters
    ----------
    rows : SampledRows
    noise : float
        Its standard deviation, in units of that of an input.
    draws : int
    random_state : int or None
    """
    leaves = [list_tensors(batch.inputs) for batch in rows.batches]
    spreads = [_spread([of_batch[place] for of_batch in leaves]) for place in range(len(leaves[0]))]
    if not any(spreads):
        return []
    generator = torch.Generator().manual_seed(0 if random_state is None else random_state)
    if random_state is None:
        generator.seed()

    def shake(inputs: Any) -> Any:
        scales = iter(spreads)

        def add(tensor: Tensor) -> Tensor:
            scale = noise * next(scales)
            return tensor + scale * torch.randn(tensor.shape, generator=generator).to(tensor) if scale else tensor

        return map_tensors(add, inputs)

    return [rows.relevance_with(rows.attribution, shake) for _ in range(draws)]


def _spread(tensors: list[Tensor]) -> float:
    """Standard deviation of all values of an input; 0 for integers, and for masks of zeros and ones."""
    if not tensors[0].is_floating_point():
        return 0.
    values = torch.cat([tensor.detach().flatten().double().cpu() for tensor in tensors])
    is_mask = bool(torch.isin(values, torch.tensor([0., 1.], dtype=values.dtype)).all())
    return 0. if is_mask else float(values.std())


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


def as_shares(relevance: np.ndarray) -> np.ndarray:
    """[rows, concepts], parts of the absolute relevance of each row; zeros where there is none."""
    totals = np.abs(relevance).sum(1, keepdims=True)
    return np.divide(relevance, totals, out=np.zeros_like(relevance), where=totals > 0)


def _entropy(relevance: np.ndarray) -> np.ndarray:
    """[rows], entropy of the shares of absolute relevance."""
    shares = np.abs(as_shares(relevance))
    return -(shares * np.log(shares, out=np.zeros_like(shares), where=shares > 0)).sum(1)
