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
from multiprocessing import get_context

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

from crp.analysis import class_shares, find_patterns
from crp.attribution import CondAttribution, Contrast
from crp.composites import LanguageModel, default_composite
from crp.concepts import ChannelConcept, DirectionConcept
from crp.neurons import From, effects, intervene
from crp.store import ReferenceStore
from crp.truth import (
    GlyphNetwork,
    InterchangeNetwork,
    adder_transformer,
    auroc,
    mass_accuracy,
    pair_network,
    purity,
    rank_accuracy,
    recovery,
    sparse_features,
    train_glyph_network,
    train_shortcut_network,
)
from crp.visualization import FeatureVisualization

SEEDS = range(5)
SCENES, PAIRS, REFERENCES = 60, 64, 8
Scores = dict[tuple[str, str], float]
"""(method, column) -> score"""


def swept(model: nn.Module, dataset: TensorDataset, layer: str, folder: str) -> ReferenceStore:
    """A store of one layer."""
    fv = FeatureVisualization(CondAttribution(model), dataset, {layer: ChannelConcept()}, path=folder)
    return fv.run(default_composite(model), 0, len(dataset), batch_size=64)


# Where concepts are

def localisation(network: GlyphNetwork) -> Scores:
    """Rank accuracy and mass of heatmaps of glyphs that decide a class, in scenes that took no part in training."""
    network.check()
    scenes, layer = network.held_out, network.layer
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for number, channels in enumerate(network.groups.values()):
        rows = torch.nonzero(scenes.decisive[:, number])[:SCENES // 3, 0]
        if not len(rows):
            continue
        images, labels, masks = scenes.images[rows], scenes.labels[rows], scenes.masks[rows, number]
        for name, heatmaps in glyph_heatmaps(network.model, layer, channels, images, labels).items():
            found.setdefault((name, "rank accuracy"), []).append(rank_accuracy(heatmaps, masks))
            found.setdefault((name, "mass"), []).append(mass_accuracy(heatmaps, masks))
        found.setdefault(("by chance", "rank accuracy"), []).append(masks.float().mean((1, 2)).numpy())
        found.setdefault(("by chance", "mass"), []).append(masks.float().mean((1, 2)).numpy())
    return {key: float(np.concatenate(parts).mean()) for key, parts in found.items()}


def glyph_heatmaps(
    model: nn.Module, layer: str, channels: list[int], images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Heatmaps [N, H, W] of a group of channels, by several methods."""
    attribution = CondAttribution(model)
    found = {}
    for name, composite in {"EpsilonPlusFlat": EpsilonPlusFlat(), "EpsilonPlus": EpsilonPlus()}.items():
        conditions = [{layer: channels, "y": [label]} for label in labels.tolist()]
        found[f"conditional heatmap, {name}"] = attribution(images, conditions, composite).heatmap
        classes = [{"y": [label]} for label in labels.tolist()]
        found[f"class heatmap, {name}"] = attribution(images, classes, composite).heatmap
    until = list(dict(model.named_children())).index(layer) + 1

    def activity(inputs: Tensor) -> Tensor:
        return model[:until](inputs)[:, channels].sum((1, 2, 3))

    with torch.no_grad():
        maps = model[:until](images)[:, channels].mean(1, keepdim=True)
    size = images.shape[-2:]
    found["activation, upsampled"] = functional.interpolate(maps, size, mode="bilinear", align_corners=False)[:, 0]
    found["gradient x input (captum)"] = InputXGradient(activity).attribute(images.clone().requires_grad_()).sum(1)
    integrated = IntegratedGradients(activity).attribute(images, n_steps=32, internal_batch_size=64)
    found["integrated gradients (captum)"] = integrated.sum(1)
    return {name: heatmaps.detach() for name, heatmaps in found.items()}


# What references show

def references(network: GlyphNetwork) -> Scores:
    """Share of the references of tied channels that show the channel's glyph, among those that are ever strongest."""
    network.check()
    tied = [channel for channels in network.groups.values() for channel in channels]
    glyph = np.repeat(np.arange(len(network.groups)), [len(channels) for channels in network.groups.values()])
    shows = network.training.present.numpy()[:, glyph]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        store = swept(network.model, network.training.dataset, network.layer, folder)
        for name, quantity in {"RelMax": "relevance", "ActMax": "activation"}.items():
            for k in (REFERENCES, 40):
                samples, _, _ = store.sorted_rows(network.layer, quantity, k=k)
                found[name, f"first {k}"] = float(purity(samples[:, tied], shows).mean())
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
    nodes = _nodes(network)
    truth = np.concatenate([network.used(layer).numpy() for layer in network.layers])
    is_used = [bool(network.used(layer)[units].any()) for layer, units in nodes]
    found = {}
    for name, table in tables.items():
        found[name, "units"] = auroc(np.concatenate([np.abs(table[layer]).mean(0) for layer in network.layers]), truth)
        sums = [np.abs(table[layer][:, units].sum(1)).mean() for layer, units in nodes]
        if name == "exact patching":
            sums = [_effect_of_node(network.model, clean, other, contrasts, layer, units, concepts[layer])
                    for layer, units in nodes]
        found[name, "nodes"] = auroc(sums, is_used)
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


def _nodes(network: InterchangeNetwork) -> list[tuple[str, list[int]]]:
    """Heads, halves of MLPs and groups of channels: as many units as are bound together, or four to a layer."""
    found = []
    for layer, size in network.sizes.items():
        bound = [len(of[layer]) for of in network.binding.values() if layer in of]
        step = min(bound) if bound else size // (2 if "down" in layer else 4)
        found += [(layer, list(range(first, first + step))) for first in range(0, size, step)]
    return found


def _effect_of_node(
    model: nn.Module, clean: Tensor, other: Tensor, contrasts: list[Contrast], layer: str, units: list[int],
    concept: ChannelConcept,
) -> float:
    """Mean absolute change of the answer if a node takes its values of the other inputs."""
    def lead(output: Tensor) -> Tensor:
        return torch.stack([row[c.outputs] - row[c.against] for row, c in zip(output, contrasts)])

    with torch.no_grad():
        before = lead(model(clean))
        with intervene(model, {layer: {tuple(units): From(other)}}, concepts=concept):
            return float((lead(model(clean)) - before).abs().mean())


# Directions

def directions(seed: int) -> Scores:
    """How near the directions of several methods come to planted ones."""
    found = {}
    for column, features in {"24 in 64": 24, "96 in 64": 96}.items():
        data = sparse_features(features=features, random_state=seed)
        if column == "24 in 64":
            data.check()
        values, count = data.values, features
        within = min(count, values.shape[1])
        fitted = {
            "NMF": DirectionConcept.fit(values, method="nmf", n_components=within).basis,
            "PCA": DirectionConcept.fit(values, method="pca", n_components=within).basis,
            "dictionary learning (scikit-learn)": MiniBatchDictionaryLearning(
                count, alpha=.1, max_iter=30, positive_code=True, random_state=seed
            ).fit(values).components_,
            "mean difference, labels given": _labelled(data.values, data.codes, "mean_difference"),
            "CAV, labels given": _labelled(data.values, data.codes, "cav"),
            "random": np.random.default_rng(seed).normal(size=data.directions.shape),
        }
        found |= {(name, column): recovery(basis, data.directions) for name, basis in fitted.items()}
    return found


def _labelled(values: np.ndarray, codes: np.ndarray, method: str) -> np.ndarray:
    return np.concatenate([
        DirectionConcept.fit(values, labels=code > 0, method=method).basis.numpy() for code in codes.T
    ])


# The shortcut

def shortcut(seed: int) -> Scores:
    """At which rank (1 is the first) methods name the concept that reacts to the mark."""
    network = train_shortcut_network(random_state=seed)
    network.check()
    layer = "relu3"
    concept = int(network.reacts_to_mark(layer).argmax())
    images, digits = network.training.tensors
    with tempfile.TemporaryDirectory() as folder:
        store = swept(network.model, network.training, layer, folder)
        found = {}
        for name, quantity in {"relevance": "relevance", "activation": "activation"}.items():
            shares = class_shares(store, layer, quantity).of_class(network.marked_class)
            found[f"share of the class, by {name}"] = _rank_of(concept, shares)
            values = np.asarray(store.values(layer, quantity, normalised=False))
            patterns = find_patterns(store, layer, quantity)
            of_class = (digits == network.marked_class).numpy()
            counts = [of_class[patterns.members(i)].sum() for i in range(len(patterns))]
            members = patterns.members(int(np.argmax(counts)))
            spread = values.std(0)
            distance = (values[members].mean(0) - values.mean(0)) / np.where(spread > 0, spread, np.inf)
            found[f"largest pattern of the class, by {name}"] = _rank_of(concept, distance)
    lost, gained = (guarantee.value for guarantee in network.guarantees[1:])
    return {(name, "rank"): float(rank) for name, rank in found.items()} | {
        ("the network", "lost without the mark"): lost, ("the network", "gained with it"): gained,
    }


def _rank_of(concept: int, scores: np.ndarray) -> int:
    return int((np.asarray(scores) > scores[concept]).sum()) + 1


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


def run(job: tuple[str, int]) -> tuple[str, int, float, dict[str, Scores]]:
    """One network, in a process of its own."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    start = time.perf_counter()
    found = WORK[job[0]](job[1])
    return *job, time.perf_counter() - start, found


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
        for work, seed, seconds, scores in pool.map(run, jobs):
            print(f"{work}, seed {seed}: {seconds:.0f} s", flush=True)
            for name, of_seed in scores.items():
                found.setdefault(name, []).append(of_seed)
    for name, kinds in TABLES.items():
        text = table({kind: found[key] for kind, key in kinds.items()})
        print(f"\n{name}\n{text}")
        write_table("truth.md", name, text)
    print(f"\n{(time.perf_counter() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
