"""How well maps keep neighbours: 64 channels in 32 near-identical pairs, and the demo's network; the time."""
import time

import numpy as np

from crp.analysis import ResponseMap, TopographicMap
from crp.analysis.layer_responses import layer_responses
from crp.demo.digits import digit_datasets, train_digit_network

SEEDS = range(10)


def twins(seed: int, pairs: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Profiles of 10 groups, [10, 2 * pairs], and the pair of each channel."""
    random = np.random.default_rng(seed)
    pair = random.permutation(np.repeat(np.arange(pairs), 2))
    return random.random((10, pairs))[:, pair] + random.normal(0, 3e-4, (10, len(pair))), pair


def share_nearest(points: np.ndarray, pair: np.ndarray) -> float:
    """Share of the points whose twin is their nearest neighbour."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag(np.full(len(points), np.inf))
    return float(np.mean(pair[distances.argmin(1)] == pair))


def main() -> None:
    """Measure and print the rows."""
    for method in ("tsne", "pca"):
        for spread in ("even", "apart", False):
            rows = []
            for seed in SEEDS:
                profiles, pair = twins(seed)
                layout = TopographicMap(method, spread).fit(profiles)
                quality = layout.quality()
                rows.append((share_nearest(layout.coordinates, pair), quality.nearest_kept, quality.trustworthiness))
            means = np.mean(rows, 0).round(3)
            print(f"{method} {spread}: twin nearest, among six, trustworthiness {means}", flush=True)
    for channels in (512, 2000):
        profiles, _ = twins(0, channels // 2)
        for method in ("tsne", "pca"):
            for spread in ("even", "apart", False):
                start = time.perf_counter()
                TopographicMap(method, spread).fit(profiles)
                print(f"{channels} channels, {method} {spread}: {time.perf_counter() - start:.1f} s", flush=True)
    training, _ = digit_datasets()
    layers = ["relu1", "relu2", "relu3", "relu4"]
    responses = layer_responses(train_digit_network(training), training.tensors[0], layers)
    targets = training.tensors[1].numpy()
    for layer, values in responses.items():
        profiles = np.stack([values[targets == digit].mean(0) for digit in range(10)])
        for spread in ("even", "apart"):
            print(f"digits {layer} {spread}: {TopographicMap('tsne', spread).fit(profiles).quality()}", flush=True)
    response_map = ResponseMap().fit_values(responses)
    print(f"digits, response map: {response_map.quality()}; round: {response_map.round().quality()}")


main()
