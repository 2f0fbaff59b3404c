"""Patterns of 50,000 rows of 512 units by default, with the memory it takes, against clustering without a sample."""
import time

import numpy as np
from common import Row, peak_memory
from sklearn.metrics import adjusted_rand_score

from crp.analysis import find_patterns

ROWS, UNITS, CLUSTERS, NOISE = 50_000, 512, 40, .1


def planted() -> tuple[np.ndarray, np.ndarray]:
    """Rows in 40 clusters of sizes from some 200 to 2,500 and noise around them, with the cluster of each."""
    random = np.random.default_rng(0)
    weights = random.uniform(.1, 1, CLUSTERS)
    labels = random.choice(CLUSTERS, ROWS, p=weights / weights.sum())
    centres = random.random((CLUSTERS, UNITS), np.float32)
    values = centres[labels]
    values += random.standard_normal((ROWS, UNITS), np.float32) * .1
    is_noise = random.random(ROWS) < NOISE
    values[is_noise] = random.random((is_noise.sum(), UNITS), np.float32)
    return values, np.where(is_noise, -1, labels)


def main() -> None:
    """Measure and print the rows."""
    values, truth = planted()
    start = time.perf_counter()
    patterns = find_patterns(values, min_pattern_size=50, random_state=0)
    seconds, memory = time.perf_counter() - start, peak_memory()
    agreement = adjusted_rand_score(truth, patterns.labels)
    print(f"{patterns}; adjusted Rand against what was planted: {agreement:.3f}", flush=True)
    Row("patterns of 50,000 x 512", "", seconds, 60, (seconds, seconds), "s").print()
    Row("patterns of 50,000 x 512: memory", "", memory, 4, (memory, memory), "GB").print()
    few = values[:15_000]
    everything = find_patterns(few, min_pattern_size=15, fit_samples=len(few), reduce=False)
    agreement = adjusted_rand_score(everything.labels, patterns.labels[:len(few)])
    print(f"15,000 of the rows, all clustered by all units: {everything}; adjusted Rand of the default against it: "
          f"{agreement:.3f}")


main()
