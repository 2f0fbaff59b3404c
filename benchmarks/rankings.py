"""Rankings of large layers: seconds and memory, each in a process of its own; and how many planted units they find.

It needs 8 GB of disk for a while.
"""
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from common import peak_memory
from large_store import SAMPLES, make_store
from pages import write_table

from crp.neurons import match, rank
from crp.neurons.methods import METHODS
from crp.store import ReferenceStore

CLASSES = 10


def labels() -> np.ndarray:
    """Ten classes."""
    return np.random.default_rng(1).integers(0, CLASSES, SAMPLES)


def layer(seed: int) -> np.ndarray:
    """A layer of 4,096 units, of which 200 tell the classes apart, [50,000, 4,096] float32."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((SAMPLES, 4096), dtype=np.float32)
    values[:, :200] += .3 * random.standard_normal((CLASSES, 200), dtype=np.float32)[labels()]
    return values


def anova(store: str) -> None:
    """All units of a store."""
    rank(ReferenceStore(store), labels(), "anova", quantity="relevance")


def correlation(store: str) -> None:
    """Two models of 4,096 units."""
    rank([layer(0), layer(1)], by="correlation")


def probe(store: str) -> None:
    """4,096 units, ten classes."""
    ranking = rank(layer(0), labels(), "probe")
    print(f"probe: {ranking.held_out}; {np.mean(np.array(ranking.top(200)) < 200):.0%} of the first 200 are planted")


def matching(store: str) -> None:
    """All units of a store with themselves."""
    found = ReferenceStore(store)
    match(found, found, quantity="relevance")


WORK = {
    "anova": (anova, "ANOVA, 50,000 x 13,416 of a store", 20),
    "correlation": (correlation, "correlation of two models, 50,000 x 4,096 each", 120),
    "probe": (probe, "elastic-net probe, 50,000 x 4,096, 10 classes", 300),
    "match": (matching, "match of 2 x 13,416 units, 50,000 rows", 240),
}


def run(name: str, store: str) -> None:
    """Measure one of them; the time to make its arrays counts too."""
    function, work, reach = WORK[name]
    start = time.perf_counter()
    function(store)
    seconds = time.perf_counter() - start
    print(f"| {work} | {seconds:.0f} s | {reach} s | {peak_memory():.1f} GB | 4 GB |", flush=True)


def planted(noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """500 units at 2,000 rows of four classes; each of the first 20 is higher for one class."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, 4, 2000)
    values = noise * random.normal(size=(2000, 500))
    for unit in range(20):
        values[:, unit] += np.eye(4)[unit % 4][classes]
    return values, classes


def found_of_planted(method: str, noise: float, seed: int) -> float:
    """Precision of the first 20 units."""
    values, classes = planted(noise, seed)
    given: object = values
    if METHODS[method].several:  # another model shares the planted units, mixed, and nothing else
        random = np.random.default_rng(100 + seed)
        given = [values, values[:, :20] @ random.normal(size=(20, 20)) / 4 + .1 * random.normal(size=(2000, 20))]
    options = {} if method in ("random", "probe", "gaussian") else {"n_bootstrap": 0}
    labels = None if METHODS[method].several else classes
    return float(np.mean(np.array(rank(given, labels, method, **options).top(20)) < 20))


def table_of_planted() -> str:
    """A line of Markdown for each method."""
    levels = (.25, .5, 1.)
    lines = ["| ranking | " + " | ".join(f"noise {level:g}" for level in levels) + " |",
             "| --- |" + " --- |" * len(levels)]
    for method in METHODS:
        if method != "svcca":  # which ranks directions
            means = [np.mean([found_of_planted(method, level, seed) for seed in range(3)]) for level in levels]
            lines.append(f"| {method} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    """Measure and print the rows."""
    folder = Path(tempfile.mkdtemp())
    try:
        make_store(folder / "store")
        lines = ["| work | time | to reach | memory | to reach |", "| --- | --- | --- | --- | --- |"]
        for name in WORK:
            done = subprocess.run(
                [sys.executable, __file__, name, folder / "store"], check=True, stdout=subprocess.PIPE, text=True
            )
            print(done.stdout, flush=True)
            lines += [line for line in done.stdout.splitlines() if line.startswith("|")]
    finally:
        shutil.rmtree(folder)
    write_table("neurons.md", "large layers", "\n".join(lines))
    write_table("neurons.md", "planted units", table_of_planted())


warnings.simplefilter("ignore")
if sys.argv[1:] == ["planted"]:
    write_table("neurons.md", "planted units", table_of_planted())
elif len(sys.argv) == 3:
    run(*sys.argv[1:])
else:
    main()
