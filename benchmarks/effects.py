"""How well relevance and gradients tell what exact patching measures: correlations over samples, layers and positions.

Of whole layers at a position, as relevance patching is used to find circuits, and of single features at a position.
Small Llamas on agreement, the digits CNN and the digits transformer, 5 seeds each.
"""
import numpy as np
import torch
from pages import write_table
from small_llama import LAYERS, agreement, pairs, trained
from small_transformer import trained as trained_transformer

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept, Concept, HeadConcept
from crp.demo.digits import digit_datasets, train_digit_network
from crp.neurons import effects

SEEDS = range(5)
LLAMA = {
    "residual": [f"model.layers.{i}" for i in range(LAYERS)],
    "attention": [f"model.layers.{i}.self_attn" for i in range(LAYERS)],
    "MLP": [f"model.layers.{i}.mlp" for i in range(LAYERS)],
}


def correlations(
    attribution: CondAttribution, data: torch.Tensor, other: torch.Tensor, layers: dict[str, Concept],
    **arguments,
) -> dict[str, float]:
    """Pearson correlation of each estimate with exact effects, over layers, samples, units and positions."""
    def of_all(**how) -> np.ndarray:
        found = effects(attribution, data, other, layers, positions=True, batch_size=512, **how, **arguments)
        return np.concatenate([found[layer].ravel() for layer in layers])

    exact, found = of_all(method="exact"), {}
    for name, how in (
        ("relevance", {"method": "relevance"}), ("attnlrp", {"method": "relevance", "functional": "attnlrp"}),
        ("gradient", {"method": "gradient"}),
    ):
        found[name] = float(np.corrcoef(exact, of_all(**how))[0, 1])
    return found


LINES = ["| correlation with exact effects (least) | relevance, cp-lrp | relevance, attnlrp | gradient |",
         "| --- | --- | --- | --- |"]


def show(title: str, found: list[dict[str, float]]) -> None:
    """A line of Markdown: means over seeds, and the least."""
    cells = [f"{np.mean([one[name] for one in found]):.3f} ({min(one[name] for one in found):.3f})"
             for name in ("relevance", "attnlrp", "gradient")]
    LINES.append(f"| {title} | " + " | ".join(cells) + " |")
    print(LINES[-1], flush=True)


def llamas() -> None:
    """Agreement of the verb, in small Llamas."""
    models = [trained(seed) for seed in SEEDS]
    for what, concept, count in (("whole", HeadConcept(1), 40), ("features of", ChannelConcept(-1), 8)):
        data, other = pairs(count)
        for kind, layers in LLAMA.items():
            show(f"Llama, agreement: {what} {kind}", [
                correlations(
                    CondAttribution(model, output="logits"), data, other, dict.fromkeys(layers, concept),
                    metric=agreement,
                ) for model in models
            ])


def digits() -> None:
    """An image patched with one of another digit: the logit of its own."""
    _, held_out = digit_datasets()
    images, classes = held_out.tensors
    chosen = [int(np.flatnonzero(classes.numpy() == digit)[0]) for digit in range(8)]
    data, y = images[chosen], classes[chosen]
    training, _ = digit_datasets()
    layers: dict[str, Concept] = dict.fromkeys(("relu3", "relu4"), ChannelConcept())
    show("digits CNN: channels of relu3, relu4", [
        correlations(CondAttribution(model), data, data.roll(1, 0), layers, y=y)
        for model in (train_digit_network(training, random_state=seed) for seed in SEEDS)
    ])
    models = [trained_transformer(seed) for seed in SEEDS]
    for kind, names in (
        ("residual", ["blocks.0", "blocks.1"]), ("attention", ["blocks.0.project", "blocks.1.project"]),
        ("MLP", ["blocks.0.down", "blocks.1.down"]),
    ):
        show(f"digits transformer: whole {kind}", [
            correlations(
                CondAttribution(model), images[:8], images[:8].roll(1, 0), dict.fromkeys(names, HeadConcept(1)),
                y=classes[:8],
            ) for model, images, classes, _ in models
        ])


def main() -> None:
    """Write the table."""
    llamas()
    digits()
    write_table("neurons.md", "effects", "\n".join(LINES))


main()
