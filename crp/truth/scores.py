"""How well methods do where the truth is known."""
from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import roc_auc_score


def _array(values: object) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def auroc(scores: object, truth: object) -> float:
    """How well scores tell true from false: the share of pairs that they put in the right order, ties half.

    Parameters
    ----------
    scores : array-like
        [N]
    truth : array-like
        [N] bool, with at least one of both.
    """
    values, is_true = _array(scores), _array(truth).astype(bool)
    if values.shape != is_true.shape or values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"scores {values.shape} are finite, [N] as the truth {is_true.shape}")
    if is_true.all() or not is_true.any():
        raise ValueError("the truth holds true and false ones: there is nothing to tell apart")
    return float(roc_auc_score(is_true, values))


def rank_accuracy(heatmaps: object, masks: object) -> np.ndarray:
    """The share of the strongest pixels that lie on the object, as many as it has.

    Parameters
    ----------
    heatmaps : array-like
        [N, H, W], relevance; the most positive is the strongest.
    masks : array-like
        [N, H, W] bool, the pixels of the object; none is empty.

    Returns
    -------
    numpy.ndarray
        [N], 0 to 1; by chance the share of the image that the object takes. Of pixels that are equally strong each
        counts in part, as if they were drawn at random.

    References
    ----------
    L. Arras, A. Osman, W. Samek (2022). CLEVR-XAI: A benchmark dataset for the ground truth evaluation of neural
    network explanations. Information Fusion 81, 14-40.
    """
    values, truth = _flat(heatmaps, masks)
    sizes = truth.sum(1)
    last = np.take_along_axis(-np.sort(-values, axis=1), sizes[:, None] - 1, 1)
    above, ties = values > last, values == last
    drawn = (sizes - above.sum(1)) / ties.sum(1)
    return ((truth & above).sum(1) + drawn * (truth & ties).sum(1)) / sizes


def mass_accuracy(heatmaps: object, masks: object) -> np.ndarray:
    """The share of the positive relevance that lies on the object (Arras et al., 2022).

    Parameters
    ----------
    heatmaps : array-like
        [N, H, W]
    masks : array-like
        [N, H, W] bool, none is empty.

    Returns
    -------
    numpy.ndarray
        [N], 0 to 1; 0 for heatmaps without positive relevance.
    """
    values, truth = _flat(heatmaps, masks)
    positive = values.clip(0)
    return (positive * truth).sum(1) / np.where(positive.any(1), positive.sum(1), 1)


def purity(samples: object, has_concept: object) -> np.ndarray:
    """The share of reference samples that show what a concept stands for.

    Parameters
    ----------
    samples : array-like
        [k, C], sample indices of the references of each concept, as ``store.sorted_rows`` gives them.
    has_concept : array-like
        [N] bool, or [N, C], which samples show it.

    Returns
    -------
    numpy.ndarray
        [C], 0 to 1.
    """
    numbers, truth = _array(samples), _array(has_concept)
    if not np.isin(numbers, np.arange(len(truth))).all():
        raise ValueError(f"samples are numbered from 0 to {len(truth) - 1}")
    found = truth[numbers] if truth.ndim == 1 else truth[numbers, np.arange(numbers.shape[1])]
    return found.mean(0)


def recovery(found: object, planted: object) -> float:
    """How near directions come to planted ones: mean absolute cosine, each with a partner of its own.

    Parameters
    ----------
    found : array-like
        [M, D]
    planted : array-like
        [K, D]; if there are more than found ones, those left over count 0.

    Returns
    -------
    float
        0 to 1.
    """
    shapes = _array(found).shape, _array(planted).shape
    if not all(len(shape) == 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(f"directions {shapes[0]} and planted ones {shapes[1]} have as many dimensions")
    cosines = np.abs(_unit_rows(planted) @ _unit_rows(found).T)
    return float(cosines[linear_sum_assignment(-cosines)].sum() / len(cosines))


def _unit_rows(values: object) -> np.ndarray:
    array = _array(values).astype(np.float64)
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    return array / np.where(lengths > 0, lengths, 1)


def _flat(heatmaps: object, masks: object) -> tuple[np.ndarray, np.ndarray]:
    values, truth = _array(heatmaps), _array(masks).astype(bool)
    if values.shape != truth.shape:
        raise ValueError(f"heatmaps {values.shape} and masks {truth.shape} have the same shape")
    if not np.isfinite(values).all():
        raise ValueError("heatmaps are finite: there is NaN, or something infinite, in them")
    values, truth = values.reshape(len(values), -1), truth.reshape(len(truth), -1)
    if not truth.any(1).all():
        raise ValueError(f"mask {int(np.flatnonzero(~truth.any(1))[0])} is empty: there is no object to find")
    return values, truth
