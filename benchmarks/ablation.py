"""Do rankings find what a network uses? Units of the digits network taken away by each of three rankings, 5 seeds.

The table counts in how many seeds the area between the curves (least important first, less most important first) is
larger by relevance than by activation, and by activation than at random. The last row is the time of ten steps in units
of a forward pass of all data.
"""
import tempfile

import numpy as np
import torch
from common import ratio_row, time_in_turn
from pages import write_table
from torch.utils.data import TensorDataset

from crp.attribution import CondAttribution
from crp.composites import default_composite
from crp.concepts import ChannelConcept
from crp.demo.digits import digit_datasets, train_digit_network
from crp.neurons import ablation_curve, rank
from crp.visualization import FeatureVisualization

LAYERS = ("relu2", "relu3", "relu4")
SEEDS = range(5)


def rankings_of(model: torch.nn.Module, training: TensorDataset, seed: int) -> dict:
    """Layer -> rankings by relevance, by activation and at random."""
    with tempfile.TemporaryDirectory() as folder:
        concepts = dict.fromkeys(LAYERS, ChannelConcept())
        fv = FeatureVisualization(CondAttribution(model), training, concepts, path=folder)
        store = fv.run(default_composite(model), 0, len(training), batch_size=64)
        return {
            layer: {
                by: rank(store, by=by, layers=layer, random_state=seed) for by in ("relevance", "activation", "random")
            } for layer in LAYERS
        }


def main() -> None:
    """Print the table."""
    training, held_out = digit_datasets()
    areas: dict[tuple[str, str, str], list[float]] = {}
    for seed in SEEDS:
        model = train_digit_network(training, random_state=seed)
        for layer, rankings in rankings_of(model, training, seed).items():
            curves = ablation_curve(model, held_out.tensors, rankings, random=4, batch_size=450, verbose=False)
            for area in curves.areas():
                areas.setdefault((layer, area.by, area.ranking), []).append(area.difference)
    lines = ["| layer | units | relevance | activation | random | relevance > activation | activation > random |",
             "| --- | --- | --- | --- | --- | --- | --- |"]
    for layer in LAYERS:
        for by in ("zero", "mean", "resample"):
            of = {name: np.array(areas[layer, by, name]) for name in ("relevance", "activation", "random")}
            means = " | ".join(f"{values.mean():.3f}" for values in of.values())
            first, second = (of["relevance"] > of["activation"]).sum(), (of["activation"] > of["random"]).sum()
            lines.append(f"| {layer} | {by} | {means} | {first} of {len(SEEDS)} | {second} of {len(SEEDS)} |")
    print("\n".join(lines), flush=True)
    write_table("neurons.md", "ablation", "\n".join(lines))

    images, classes = held_out.tensors
    data = images.repeat(4, 1, 1, 1), classes.repeat(4)

    def forward() -> None:
        with torch.no_grad():
            for part in data[0].split(64):
                model(part)

    ranking = rankings["relevance"]

    def curve() -> None:
        ablation_curve(
            model, data, ranking, by="zero", steps=np.linspace(.1, 1, 10).tolist(), random=0, batch_size=64,
            verbose=False,
        )

    curve()
    ratios, = time_in_turn(curve, forward)
    ratio_row(
        "ablation curves of 10 steps in both orders, last layer", "a forward pass of all data", 11, ratios, 0.
    ).print()


main()
