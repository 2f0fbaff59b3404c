"""Rank correlation of many columns, in blocks."""
from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata


def spearman(values: Any, block: int = 256) -> np.ndarray:
    """Rank correlation between columns: Pearson's of their ranks, ties sharing their mean rank.

    Parameters
    ----------
    values : array-like
        [N, D]; no column may be constant.
    block : int, default 256
        Columns to rank at a time.

    Returns
    -------
    numpy.ndarray
        [D, D] float32
    """
    values = np.asarray(values)
    ranks = np.empty(values.shape, np.float32)
    for first in range(0, values.shape[1], block):
        of_block = rankdata(values[:, first:first + block], axis=0)
        of_block -= of_block.mean(0)
        ranks[:, first:first + block] = of_block / np.linalg.norm(of_block, axis=0)
    return (ranks.T @ ranks).clip(-1, 1)
