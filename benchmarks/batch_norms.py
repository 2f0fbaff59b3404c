"""Batch norm after an activation: which rule finds what networks use? Small networks for digits, five seeds.

Three blocks of convolution, ReLU, batch norm and pooling (or a stride of 2). Relevance of the ReLUs' channels is
compared with what the target's logit loses without each channel (Spearman correlation), set to zero or to its mean;
and patches of the image are removed, from the least relevant to the most and the other way round, as in
``faithfulness.py``. *Merged*: the layer that follows takes up scale and shift, which is exact without padding.
"""
from __future__ import annotations

import copy
import statistics
from collections import defaultdict

import torch
from faithfulness import area
from pages import write_table
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional
from zennit.core import Composite
from zennit.rules import Epsilon, Pass, ZPlus
from zennit.types import BatchNorm

from crp.attribution import CondAttribution
from crp.composites import EpsilonPlus
from crp.demo.digits import digit_datasets

SEEDS, DIGITS, PATCH = range(5), 60, 4
POOLING = {"max pooling": nn.MaxPool2d(2), "average pooling": nn.AvgPool2d(2), "stride": nn.Identity()}


class OwnPass(Pass):
    """A rule that is kept, where :class:`zennit.rules.Pass` leaves batch norms to the library."""



def network(pooling: str, padding: int) -> nn.Sequential:
    """Untrained, for images [1, 32, 32]."""
    layers: list[nn.Module] = []
    for before, width in ((1, 12), (12, 24), (24, 32)):
        convolution = nn.Conv2d(before, width, 3, 2 if pooling == "stride" else 1, padding)
        layers += [convolution, nn.ReLU(), nn.BatchNorm2d(width), POOLING[pooling]]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10))


def trained(pooling: str, padding: int, seed: int, images: Tensor, digits: Tensor) -> nn.Sequential:
    """A network in evaluation mode."""
    torch.manual_seed(seed)
    model = network(pooling, padding)
    model(images[:2])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(6):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[batch]), digits[batch]).backward()
            optimizer.step()
    return model.eval()


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Of each channel."""
    scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias.detach() - norm.running_mean * scale


def merged(model: nn.Sequential) -> nn.Sequential:
    """The same network without batch norms: the layers that follow take them up."""
    model = copy.deepcopy(model)
    for i, norm in enumerate(model):
        if isinstance(norm, nn.BatchNorm2d):
            scale, shift = scale_and_shift(norm)
            layer = next(m for m in model[i:] if isinstance(m, (nn.Conv2d, nn.Linear)))
            if isinstance(layer, nn.Linear):
                scale, shift = (x.repeat_interleave(layer.in_features // len(x)) for x in (scale, shift))
            scale, shift = (x.view(1, -1, *[1] * (layer.weight.ndim - 2)) for x in (scale, shift))
            layer.bias.data += (layer.weight.data * shift).flatten(1).sum(1)
            layer.weight.data *= scale
            model[i] = nn.Identity()
    return model


def folded(model: nn.Sequential) -> nn.Sequential:
    """The same network with statistics of batch norms folded into their weight and bias, as ZPlus needs it."""
    model = copy.deepcopy(model)
    for norm in filter(lambda m: isinstance(m, nn.BatchNorm2d), model):
        norm.weight.data, norm.bias.data = scale_and_shift(norm)
        norm.running_mean.zero_()
        norm.running_var.fill_(1)
        norm.eps = 0.
    return model


def with_rule(rule: Pass | Epsilon | ZPlus) -> Composite:
    """EpsilonPlus with a rule for batch norms."""
    base = EpsilonPlus()
    return Composite(lambda c, name, m: rule if isinstance(m, BatchNorm) else base.module_map(c, name, m))


def ways(model: nn.Sequential, padding: int) -> dict[str, tuple[nn.Module, Composite]]:
    """Name -> a network with the same outputs, and the composite."""
    found = {
        "passed": (model, with_rule(OwnPass())), "epsilon": (model, with_rule(Epsilon())),
        "ZPlus": (folded(model), with_rule(ZPlus())),
    }
    return found if padding else {**found, "merged": (merged(model), EpsilonPlus())}


def effects(model: nn.Sequential, layer: int, images: Tensor, digits: Tensor, ablation: str) -> Tensor:
    """What the target's logit loses [B, C] without each channel of a ReLU."""
    rows, lost = torch.arange(len(images)), []
    for channel in range(model[layer - 1].out_channels):
        def remove(module, args, output, channel=channel):
            output = output.clone()
            output[:, channel] = 0 if ablation == "zero" else output[:, channel].mean()
            return output

        before = model(images)[rows, digits]
        handle = model[layer].register_forward_hook(remove)
        lost.append(before - model(images)[rows, digits])
        handle.remove()
    return torch.stack(lost, 1)


def measured(pooling: str, padding: int, seed: int) -> dict[tuple[str, str], float]:
    """(Way, measure) -> value, for one network."""
    training, held_out = digit_datasets()
    model = trained(pooling, padding, seed, *training.tensors)
    images, digits = (x[:DIGITS] for x in held_out.tensors)
    relus = [i for i, module in enumerate(model) if isinstance(module, nn.ReLU)]
    with torch.no_grad():
        lost = {(i, kind): effects(model, i, images, digits, kind) for i in relus for kind in ("zero", "mean")}
    found = {}
    for name, (equal, composite) in ways(model, padding).items():
        torch.testing.assert_close(equal(images), model(images), rtol=1e-3, atol=1e-3)
        result = CondAttribution(equal)(
            images, [{"y": [int(digit)]} for digit in digits], composite, [str(i) for i in relus]
        )
        for kind in ("zero", "mean"):
            found[name, kind] = statistics.mean(
                spearmanr(result.relevances[str(i)][row].sum((1, 2)), lost[i, kind][row]).statistic
                for i in relus for row in range(DIGITS)
            )
        patches = functional.avg_pool2d(result.heatmap[:, None], PATCH).flatten(1)

        def without(kept: Tensor) -> Tensor:
            mask = kept.view(-1, 1, 32 // PATCH, 32 // PATCH).to(images)
            return model(images * functional.interpolate(mask, scale_factor=PATCH))

        found[name, "patches"] = area(without, digits, patches)
    return found


def main() -> None:
    """Write a table with the mean of the seeds, and their lowest and highest."""
    lines = ["| network | rule | channel to zero | to its mean | patches |", "| --- | --- | --- | --- | --- |"]
    for padding in (1, 0):
        for pooling in POOLING:
            values = defaultdict(list)
            for seed in SEEDS:
                for key, value in measured(pooling, padding, seed).items():
                    values[key].append(value)
            for way in dict.fromkeys(way for way, _ in values):
                cells = [values[way, kind] for kind in ("zero", "mean", "patches")]
                texts = (f"{statistics.mean(x):.2f} ({min(x):.2f} to {max(x):.2f})" for x in cells)
                lines.append(f"| {pooling}{', padded' if padding else ''} | {way} | {' | '.join(texts)} |")
                print(lines[-1], flush=True)
    write_table("any_model.md", "batch norms", "\n".join(lines))


if __name__ == "__main__":
    main()
