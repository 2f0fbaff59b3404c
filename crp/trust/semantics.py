"""How clear, redundant and polysemantic concepts are, by embeddings of their reference samples."""
from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.cluster import KMeans

_AT_MOST = 10


def clarity(embeddings: Any) -> np.ndarray:
    """How alike the references of each concept are: the mean cosine between two of them.

    Parameters
    ----------
    embeddings : array-like
        [concepts, references, d], with two references at least.

    Returns
    -------
    numpy.ndarray
        [concepts], from ``-1 / (references - 1)`` to 1.

    References
    ----------
    M. Dreyer, J. Berend, T. Labarta, J. Vielhaben, T. Wiegand, S. Lapuschkin, W. Samek (2025). Mechanistic
    understanding and validation of large AI models with SemanticLens. Nature Machine Intelligence 7, 1572-1585.
    """
    values = _checked(embeddings)
    count = values.shape[1]
    total = (unit_vectors(values).sum(1) ** 2).sum(-1)  # of all pairs, each with itself too
    return (total - count) / (count * (count - 1))


def redundancy(embeddings: Any) -> np.ndarray:
    """How near the nearest other concept is: the cosine between their mean embeddings.

    SemanticLens gives the mean over all concepts.

    Parameters
    ----------
    embeddings : array-like
        [concepts, references, d], of two concepts at least.

    Returns
    -------
    numpy.ndarray
        [concepts]
    """
    means = unit_vectors(_checked(embeddings).mean(1))
    if len(means) < 2:
        return np.full(len(means), np.nan)
    cosines = means @ means.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines.max(1)


def polysemanticity(embeddings: Any, random_state: int = 123) -> np.ndarray:
    """How far apart two groups of a concept's references are: one minus the cosine between their centres.

    Groups are those of k-means. Where one of them is a single reference, each of the first ten references is compared
    with the mean of all instead.

    Parameters
    ----------
    embeddings : array-like
        [concepts, references, d], with two references at least.
    random_state : int, default 123
        Of k-means; the default is that of SemanticLens.

    Returns
    -------
    numpy.ndarray
        [concepts], 0 to 2.
    """
    values = _checked(embeddings)
    found = np.empty(len(values))
    for number, own in enumerate(values):
        pairs = [np.stack([own.mean(0), one]) for one in own[:_AT_MOST]]
        if len(np.unique(own, axis=0)) > 1:
            groups = KMeans(n_clusters=2, n_init=10, random_state=random_state).fit(own)
            if np.bincount(groups.labels_, minlength=2).min() > 1:
                pairs = [groups.cluster_centers_]
        found[number] = 1 - clarity(np.stack(pairs)).mean()
    return found


def _checked(embeddings: Any) -> np.ndarray:
    values = np.asarray(embeddings, np.float64)
    if values.ndim != 3 or values.shape[1] < 2 or not np.isfinite(values).all() or not values.any(-1).all():
        raise ValueError(
            "embeddings are finite and not zero, [concepts, references, d], with two references at least, not "
            f"{values.shape}"
        )
    return values


def unit_vectors(values: np.ndarray) -> np.ndarray:
    """Vectors [..., d] of length 1; those that are zero stay so."""
    lengths = np.linalg.norm(values, axis=-1, keepdims=True)
    return values / np.maximum(lengths, 1e-12)
