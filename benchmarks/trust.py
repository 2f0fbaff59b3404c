"""How long a report on 512 concepts takes: the demo's network, with as many channels in its last convolution.

Writes the table of docs/trust.md.
"""
import tempfile
import time
from collections import OrderedDict

import numpy as np
from pages import write_table
from torch import nn

from crp.attribution import CondAttribution
from crp.composites import default_composite
from crp.concepts import ChannelConcept
from crp.demo.digits import digit_datasets, digit_network
from crp.model.reproducible import fit, reproducible
from crp.trust import trust_report
from crp.visualization import FeatureVisualization

CONCEPTS, LAYER, REPEATS = 512, "relu3", 3


def wide_network() -> nn.Sequential:
    """The demo's network with 512 channels, trained for five epochs."""
    training, _ = digit_datasets()
    images, classes = training.tensors
    with reproducible(0):
        parts = OrderedDict(digit_network().named_children())
        parts["conv3"], parts["fc1"] = nn.Conv2d(24, CONCEPTS, 5, padding=2), nn.Linear(CONCEPTS, 64)
        model = nn.Sequential(parts)

        def loss_of(batch):
            return nn.functional.cross_entropy(model(images[batch]), classes[batch])

        fit(model.parameters(), loss_of, len(images), epochs=5, learning_rate=3e-3)
    return model.eval()


def main() -> None:
    """Print the table, and write it."""
    training, held_out = digit_datasets()
    model = wide_network()
    lines = ["| report | time (median of three) | to reach |", "| --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as folder:
        fv = FeatureVisualization(CondAttribution(model), training, {LAYER: ChannelConcept()}, path=folder)
        composite = default_composite(model)
        fv.run(composite, 0, len(training))

        def embed(pictures):
            return np.stack([np.asarray(picture.resize((8, 8)), float).ravel() for picture in pictures])

        for name, options in {"without embeddings": {}, "with embeddings (of pixels)": {"embed_images": embed}}.items():
            times = []
            for _ in range(REPEATS):
                start = time.perf_counter()
                report = trust_report(
                    fv, LAYER, composite=composite, held_out=held_out, verbose=False, save=False, **options
                )
                times.append(time.perf_counter() - start)
            assert len(report) == CONCEPTS
            lines.append(f"| {CONCEPTS} concepts, {name} | {np.median(times):.0f} s | 60 s |")
    print("\n".join(lines))
    write_table("trust.md", "report", "\n".join(lines))


main()
