"""Methods measured on networks whose concepts are known: ``make truth``. Five of each kind, two processes.

Writes the tables of docs/truth.md.
"""
from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from multiprocessing import get_context
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: two processes share the cores

import numpy as np
import torch
from captum.attr import InputXGradient, IntegratedGradients
from pages import write_table
from sklearn.decomposition import MiniBatchDictionaryLearning
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset
from zennit.composites import EpsilonPlus, EpsilonPlusFlat
from zennit.core import Composite

from crp.analysis import class_shares, find_patterns
from crp.attribution import CondAttribution, Contrast
from crp.composites import LanguageModel, default_composite
from crp.concepts import ChannelConcept, DirectionConcept
from crp.neurons import From, effects, intervene
from crp.store import ReferenceStore
from crp.truth import (
    GlyphNetwork,
    InterchangeNetwork,
    Node,
    SparseFeatures,
    TruthError,
    adder_transformer,
    pair_network,
    sparse_features,
    train_glyph_network,
    train_shortcut_network,
)
from crp.visualization import FeatureVisualization

SEEDS = range(5)
SCENES, PAIRS, REFERENCES = 20, 64, (8, 500, 1000)
Scores = dict[tuple[str, str], float]
"""(method, column) -> score"""


def swept(model: nn.Module, dataset: TensorDataset, layer: str, folder: str) -> ReferenceStore:
    """A store of one layer."""
    fv = FeatureVisualization(CondAttribution(model), dataset, {layer: ChannelConcept()}, path=folder)
    return fv.run(default_composite(model), 0, len(dataset), batch_size=64)


# Where concepts are

def localisation(network: GlyphNetwork) -> Scores:
    """Rank accuracy and mass of heatmaps of glyphs that decide a class, in scenes that took no part in training."""
    model, layer = network.model, network.layer
    attribution = CondAttribution(model)
    until = list(dict(model.named_children())).index(layer) + 1

    def conditional(composite: Composite) -> Callable:
        return lambda images, labels, channels: attribution(
            images, [{layer: channels, "y": [label]} for label in labels.tolist()], composite
        ).heatmap

    def of_class(composite: Composite) -> Callable:
        return lambda images, labels, channels: attribution(
            images, [{"y": [label]} for label in labels.tolist()], composite
        ).heatmap

    def upsampled(images: Tensor, labels: Tensor, channels: list[int]) -> Tensor:
        with torch.no_grad():
            maps = model[:until](images)[:, channels].mean(1, keepdim=True)
        return functional.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]

    def of_captum(explain: Callable, **options: Any) -> Callable:
        def method(images: Tensor, labels: Tensor, channels: list[int]) -> Tensor:
            def activity(inputs: Tensor) -> Tensor:
                return model[:until](inputs)[:, channels].sum((1, 2, 3))

            return explain(activity).attribute(images.clone().requires_grad_(), **options).sum(1)

        return method

    methods = {
        "conditional heatmap, EpsilonPlusFlat": conditional(EpsilonPlusFlat()),
        "conditional heatmap, EpsilonPlus": conditional(EpsilonPlus()),
        "class heatmap, EpsilonPlusFlat": of_class(EpsilonPlusFlat()),
        "class heatmap, EpsilonPlus": of_class(EpsilonPlus()),
        "activation, upsampled": upsampled,
        "gradient x input (captum)": of_captum(InputXGradient),
        "integrated gradients (captum)": of_captum(IntegratedGradients, n_steps=32, internal_batch_size=64),
    }
    found = {}
    for name, method in methods.items():
        scores = network.localisation(method, SCENES)
        found |= {(name, "rank accuracy"): scores.rank_accuracy, (name, "mass"): scores.mass}
    return found | {("by chance", column): scores.chance for column in ("rank accuracy", "mass")}


# What references show

def references(network: GlyphNetwork) -> Scores:
    """Share of the references of tied channels that show the channel's glyph."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        store = swept(network.model, network.training.dataset, network.layer, folder)
        for name, quantity in {"RelMax": "relevance", "ActMax": "activation"}.items():
            for k in REFERENCES:
                found[name, f"first {k}"] = network.purity(store.sorted_rows(network.layer, quantity, k=k)[0])
            of_classes = [store.sorted_rows(network.layer, quantity, target, k=8)[0] for target in range(3)]
            found[name, "first 8 of each class"] = float(np.mean([network.purity(samples) for samples in of_classes]))
    return found


# Which units are used

def used_units(network: InterchangeNetwork) -> Scores:
    """AUROC of used against idle units, and of used against idle nodes, by several rankings."""
    network.check()
    clean, other, contrasts, classes = _pairs(network)
    concepts = {layer: ChannelConcept(network.axes[layer]) for layer in network.layers}
    attribution = CondAttribution(network.model)
    composite = LanguageModel() if not clean.is_floating_point() else default_composite(network.model)
    conditions = [{"y": [label]} for label in classes]
    result = attribution(clean, conditions, composite, record_layer=network.layers, heatmap=False)
    plain = attribution(clean, conditions, None, record_layer=network.layers, heatmap=False, init_rel=1.)

    def of_units(values: dict[str, Tensor]) -> dict[str, np.ndarray]:
        return {layer: concept.read(values[layer], layer).value.numpy() for layer, concept in concepts.items()}

    products = {layer: plain.relevances[layer] * plain.activations[layer] for layer in network.layers}
    tables = {
        "relevance": of_units(result.relevances), "activation": of_units(result.activations),
        "gradient x activation": of_units(products),
        **{f"{method} patching": effects(attribution, clean, other, concepts, y=contrasts, method=method).effects
           for method in ("gradient", "relevance", "exact")},
    }
    found = {}
    for name, table in tables.items():
        found[name, "units"] = network.auroc({layer: np.abs(values).mean(0) for layer, values in table.items()})
        sums = [np.abs(table[node.layer][:, node.units].sum(1)).mean() for node in network.nodes]
        if name == "exact patching":
            sums = [_effect_of(node, network.model, clean, other, contrasts, concepts[node.layer])
                    for node in network.nodes]
        found[name, "nodes"] = network.node_auroc(sums)
    return found


def _pairs(network: InterchangeNetwork) -> tuple[Tensor, Tensor, list[Contrast], list[int]]:
    """Held-out inputs, others with another answer, what tells the two answers apart, and the first ones."""
    inputs, facts = network.held_out
    answers = network.program(facts)
    random = np.random.default_rng(0)
    first = random.permutation(len(answers))[:PAIRS]
    second = [random.choice(np.flatnonzero((answers != answers[i]).numpy())) for i in first]
    pairs = list(zip(answers[first].tolist(), answers[second].tolist()))
    return inputs[first], inputs[second], [Contrast(a, b) for a, b in pairs], [a for a, _ in pairs]


def _effect_of(
    node: Node, model: nn.Module, clean: Tensor, other: Tensor, contrasts: list[Contrast], concept: ChannelConcept
) -> float:
    """Mean absolute change of the answer if a node takes its values of the other inputs."""
    def lead(output: Tensor) -> Tensor:
        return torch.stack([row[c.outputs] - row[c.against] for row, c in zip(output, contrasts)])

    with torch.no_grad():
        before = lead(model(clean))
        with intervene(model, {node.layer: {tuple(node.units): From(other)}}, concepts=concept):
            return float((lead(model(clean)) - before).abs().mean())


# Directions

def directions(seed: int) -> Scores:
    """How near the directions of several methods come to planted ones."""
    found = {}
    for column, count in {"24 in 64": 24, "96 in 64": 96}.items():
        data = sparse_features(features=count, random_state=seed)
        values, within = data.values, min(count, 64)
        dictionary = MiniBatchDictionaryLearning(
            count, alpha=.1, max_iter=30, fit_algorithm="cd", positive_code=True, random_state=seed
        )
        fitted = {
            "NMF": DirectionConcept.fit(values, method="nmf", n_components=within).basis,
            "PCA": DirectionConcept.fit(values, method="pca", n_components=within).basis,
            "dictionary learning (scikit-learn)": dictionary.fit(values).components_,
            "mean difference, labels given": _labelled(data, "mean_difference"),
            "CAV, labels given": _labelled(data, "cav"),
            "random": np.random.default_rng(seed).normal(size=data.directions.shape),
        }
        found |= {(name, column): data.recovery(basis) for name, basis in fitted.items()}
    return found


def _labelled(data: SparseFeatures, method: str) -> np.ndarray:
    return np.concatenate([
        DirectionConcept.fit(data.values, labels=code > 0, method=method).basis.numpy() for code in data.codes.T
    ])


# The shortcut

def shortcut(seed: int) -> Scores:
    """At which rank (1 is the first) methods name the concept that reacts to the mark."""
    network, layer = train_shortcut_network(random_state=seed), "relu3"
    of_class = (network.training.tensors[1] == network.marked_class).numpy()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        store = swept(network.model, network.training, layer, folder)
        for quantity in ("relevance", "activation"):
            shares = class_shares(store, layer, quantity).of_class(network.marked_class)
            found[f"share of the class, by {quantity}", "rank"] = network.rank(layer, shares)
            values = np.asarray(store.values(layer, quantity, normalised=False))
            patterns = find_patterns(store, layer, quantity)
            members = max((patterns.members(i) for i in range(len(patterns))), key=lambda rows: of_class[rows].sum())
            spread = values.std(0)
            distance = (values[members].mean(0) - values.mean(0)) / np.where(spread > 0, spread, np.inf)
            found[f"largest pattern of the class, by {quantity}", "rank"] = network.rank(layer, distance)
    for name, guarantee in zip(("lost without the mark", "others, with the mark"), network.guarantees[1:]):
        found[f"the network: {name}", "share"] = guarantee.value
    return found


# All of it

def of_glyphs(rule: str, seed: int) -> dict[str, Scores]:
    """Both tables of a glyph network."""
    network = train_glyph_network(rule, random_state=seed)
    return {f"localisation, {rule}": localisation(network), f"references, {rule}": references(network)}


WORK: dict[str, Callable[[int], dict[str, Scores]]] = {
    "glyphs, presence": lambda seed: of_glyphs("presence", seed),
    "glyphs, absence": lambda seed: of_glyphs("absence", seed),
    "pair network": lambda seed: {"units, CNN": used_units(pair_network(seed))},
    "adder transformer": lambda seed: {"units, transformer": used_units(adder_transformer(seed))},
    "directions": lambda seed: {"directions": directions(seed)},
    "shortcut": lambda seed: {"shortcut": shortcut(seed)},
}


def run(job: tuple[str, int]) -> tuple[str, int, str, dict[str, Scores]]:
    """One network, in a process of its own: how long it took, or why nothing is scored on it, and the scores."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    start = time.perf_counter()
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        try:
            found = WORK[job[0]](job[1])
        except TruthError as error:
            return *job, str(error), {}
    return *job, f"{time.perf_counter() - start:.0f} s", found


def cell(values: list[float]) -> str:
    """Mean, and the lowest and highest of the seeds."""
    digits = 0 if all(value == int(value) and value >= 1 for value in values) and len(set(values)) > 1 else 2
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return f"{np.mean(values):.{max(digits, 1)}f} ({low} to {high})" if low != high else f"{np.mean(values):.2f}"


def table(names: dict[str, list[Scores]]) -> str:
    """A line for each method, a column for each score of each kind of network; seeds in brackets."""
    columns = [(kind, column) for kind, seeds in names.items() for column in dict.fromkeys(c for _, c in seeds[0])]
    methods = dict.fromkeys(method for seeds in names.values() for method, _ in seeds[0])
    titles = [f"{column}, {kind}" if len(names) > 1 else column for kind, column in columns]
    lines = [f"| method | {' | '.join(titles)} |", f"|{' --- |' * (len(columns) + 1)}"]
    for method in methods:
        cells = []
        for kind, column in columns:
            values = [scores[method, column] for scores in names[kind] if (method, column) in scores]
            cells.append(cell(values) if values else "")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES = {
    "localisation": {"presence": "localisation, presence", "absence": "localisation, absence"},
    "references": {"presence": "references, presence", "absence": "references, absence"},
    "units": {"CNN": "units, CNN", "transformer": "units, transformer"},
    "directions": {"": "directions"},
    "shortcut": {"": "shortcut"},
}


def main() -> None:
    """Train, score, print and write."""
    start = time.perf_counter()
    found: dict[str, list[Scores]] = {}
    jobs = [(work, seed) for work in WORK for seed in SEEDS]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for work, seed, told, scores in pool.map(run, jobs):
            print(f"{work}, seed {seed}: {told}", flush=True)
            for name, of_seed in scores.items():
                found.setdefault(name, []).append(of_seed)
    for name, kinds in TABLES.items():
        text = table({kind: found[key] for kind, key in kinds.items()})
        print(f"\n{name}\n{text}")
        write_table("truth.md", name, text)
    print(f"\n{(time.perf_counter() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
