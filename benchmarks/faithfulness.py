"""Does relevance find what a vision transformer uses: patches, heads, neurons? Small networks for digits, five seeds.

Images are less the mean image, as is usual. Patches, heads or neurons are removed (set to zero) from the least relevant
to the most, and the other way round; the area between the two curves of the target's logit is large where the order is
right.
"""
from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack

import torch
from pages import write_table
from small_transformer import GRID, HEADS, PATCH, trained
from torch import Tensor, nn
from torch.nn import functional

from crp.attribution import CondAttribution
from crp.attribution.baselines import attention_rollout, gradient_x_input, integrated_gradients
from crp.composites import LanguageModel, VisionTransformer
from crp.concepts import ChannelConcept, HeadConcept

SEEDS = range(5)
RULES = {"gamma": VisionTransformer, "epsilon": LanguageModel}
CONCEPTS = {
    "attention heads": (HeadConcept(HEADS), [f"blocks.{i}.project:in" for i in range(3)]),
    "MLP neurons": (ChannelConcept(-1), [f"blocks.{i}.down:in" for i in range(3)]),
}


def by_patch(heatmap: Tensor) -> Tensor:
    """Sums [B, patches] of heatmaps [B, 32, 32]."""
    return functional.avg_pool2d(heatmap[:, None].float(), PATCH).flatten(1)


def attributions(model: nn.Module) -> dict[str, tuple[CondAttribution, type]]:
    """Ways to compute relevance: name -> attribution and composite."""
    ways = {"AttnLRP": CondAttribution(model), "CP-LRP": CondAttribution(model, functional="cp-lrp")}
    return {f"{way}, {rule}": (ways[way], RULES[rule]) for way in ways for rule in RULES}


def scores_of_patches(model: nn.Module, images: Tensor, conditions: list[dict]) -> dict[str, Tensor]:
    """The relevance [B, patches] of patches by each method."""
    attribution = CondAttribution(model)
    with torch.no_grad():
        model(images)
    rollout = attention_rollout([block.weights for block in model.blocks])[:, 0, 1:]
    gradient = gradient_x_input(attribution, images, conditions, absolute_gradient=True)
    return {
        **{
            name: by_patch(way(images, conditions, composite()).heatmap)
            for name, (way, composite) in attributions(model).items()
        },
        "gradient x input": by_patch(gradient_x_input(attribution, images, conditions).heatmap),
        "absolute gradient": by_patch(gradient.heatmap),
        "attention rollout": rollout,
        "integrated gradients": by_patch(integrated_gradients(attribution, images, conditions, steps=16).heatmap),
    }


def scores_of_concepts(model: nn.Module, images: Tensor, conditions: list[dict], kind: str) -> dict[str, Tensor]:
    """The relevance [B, concepts] of the concepts of all layers by each method."""
    concept, layers = CONCEPTS[kind]

    def of_all_layers(values):
        return torch.cat([concept.attribute(values[layer], abs_norm=False) for layer in layers], 1)

    scores = {
        name: of_all_layers(way(images, conditions, composite(), record_layer=layers).relevances)
        for name, (way, composite) in attributions(model).items()
    }
    plain = CondAttribution(model)(images, conditions, None, record_layer=layers, init_rel=1.)
    scores["gradient x activation"] = of_all_layers(
        {layer: plain.relevances[layer] * plain.activations[layer] for layer in layers}
    )
    return {**scores, "random": torch.rand_like(scores["gradient x activation"])}


def without_patches(model: nn.Module, images: Tensor, kept: Tensor) -> Tensor:
    """Logits of images in which only some patches [B, patches] are kept."""
    mask = functional.interpolate(kept.view(-1, 1, GRID, GRID).to(images), scale_factor=PATCH)
    return model(images * mask)


def without_concepts(model: nn.Module, images: Tensor, kept: Tensor, kind: str) -> Tensor:
    """Logits of images while only some concepts [B, concepts of all layers] of the model are kept."""
    layers = [layer.removesuffix(":in") for layer in CONCEPTS[kind][1]]
    with ExitStack() as stack:
        for layer, part in zip(layers, kept.chunk(len(layers), 1)):
            def keep(module, args, part=part):
                return args[0] * part.repeat_interleave(args[0].shape[-1] // part.shape[1], 1)[:, None]

            handle = model.get_submodule(layer).register_forward_pre_hook(keep)
            stack.callback(handle.remove)
        return model(images)


def area(logits_without: Callable[[Tensor], Tensor], digits: Tensor, scores: Tensor) -> float:
    """Mean distance between the targets' logits when the least relevant goes first, and the most relevant."""
    rows = torch.arange(len(digits))
    ends = torch.linspace(0, scores.shape[1], 1 + min(scores.shape[1], GRID ** 2)).round().int().tolist()

    def curve(order):
        rank = order.argsort(1)
        return torch.stack([logits_without(rank >= end)[rows, digits] for end in ends])

    with torch.no_grad():
        order = scores.argsort(1)
        return (curve(order) - curve(order.flip(1))).mean().item()


def main() -> None:
    """Print tables with a line for each method."""
    tables: dict[str, dict[str, list[float]]] = {kind: {} for kind in ("patches", *CONCEPTS)}
    for seed in SEEDS:
        model, images, digits, accuracy = trained(seed)
        print(f"seed {seed}: {accuracy:.1%} of held-out digits are read correctly", flush=True)
        conditions = [{"y": [int(digit)]} for digit in digits]
        for kind, table in tables.items():
            if kind == "patches":
                scores = scores_of_patches(model, images, conditions)
            else:
                scores = scores_of_concepts(model, images, conditions, kind)

            def logits_without(kept, model=model, images=images, kind=kind):
                if kind == "patches":
                    return without_patches(model, images, kept)
                return without_concepts(model, images, kept, kind)

            for name, values in scores.items():
                table.setdefault(name, []).append(area(logits_without, digits, values))
    for kind, table in tables.items():
        print(f"\n| removing {kind} |{''.join(f' seed {seed} |' for seed in SEEDS)} mean |"
              f"\n|{' --- |' * (len(SEEDS) + 2)}")
        for name, found in table.items():
            print(f"| {name} | {' | '.join(f'{x:.2f}' for x in found)} | {statistics.mean(found):.2f} |")
    write_table("any_model.md", "faithfulness", summary(tables))


def summary(tables: dict[str, dict[str, list[float]]]) -> str:
    """A table with the mean, lowest and highest area of all seeds."""
    lines = [f"| method |{''.join(f' {kind} |' for kind in tables)}", f"|{' --- |' * (len(tables) + 1)}"]
    for name in dict.fromkeys(name for table in tables.values() for name in table):
        found = [table.get(name) for table in tables.values()]
        cells = (f" {statistics.mean(x):.2f} ({min(x):.2f} to {max(x):.2f}) |" if x else " |" for x in found)
        lines.append(f"| {name} |{''.join(cells)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
