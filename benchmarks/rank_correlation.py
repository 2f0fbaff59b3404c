"""Spearman correlation between 4,096 neurons over 50,000 samples, as response maps use it, and the memory it takes."""
import time

import numpy as np
from common import Row, deviation, peak_memory
from scipy.stats import spearmanr

from crp.analysis.rank_correlation import spearman

SAMPLES, NEURONS, CHECKED = 50_000, 4_096, 8


def main() -> None:
    """Measure and print the rows."""
    random = np.random.default_rng(0)
    values = random.standard_normal((SAMPLES, NEURONS), np.float32)
    values[:, 1::2] += values[:, ::2]
    start = time.perf_counter()
    correlations = spearman(values)
    seconds = time.perf_counter() - start
    memory = peak_memory()
    error = deviation(correlations[:CHECKED, :CHECKED], spearmanr(values[:, :CHECKED]).statistic)
    Row("rank correlation of 4,096 neurons, 50,000 samples", "", seconds, 120, (seconds, seconds), "s", error).print()
    Row("memory of the rank correlation", "", memory, 4, (memory, memory), "GB", error).print()


main()
