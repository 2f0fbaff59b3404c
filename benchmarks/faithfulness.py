"""Do heatmaps find the patches that a vision transformer reads? Small networks trained on digits, five seeds.

Images are less the mean image, as is usual. Patches are removed (set to zero, the mean) from the least relevant to the
most, and the other way round; the area between the two curves of the target's logit is large where a heatmap is right.
"""
from __future__ import annotations

import statistics

import torch
from torch import Tensor, nn
from torch.nn import functional

from crp.attribution import CondAttribution
from crp.baselines import attention_rollout, gradient_x_input, integrated_gradients
from crp.composites import LanguageModel, VisionTransformer
from crp.demo.digits import digit_datasets

PATCH, GRID, WIDTH, SEEDS = 4, 8, 48, range(5)


class Block(nn.Module):
    """A block of a transformer that keeps its attention weights."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attend = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, WIDTH] to the same."""
        y = self.norm1(x)
        attended, self.weights = self.attend(y, y, y, average_attn_weights=False)
        x = x + attended
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class SmallTransformer(nn.Module):
    """A vision transformer for digits of 32 x 32 pixels."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, WIDTH, PATCH, PATCH)
        self.class_token = nn.Parameter(torch.randn(1, 1, WIDTH) * .02)
        self.position = nn.Parameter(torch.randn(1, GRID ** 2 + 1, WIDTH) * .02)
        self.blocks = nn.Sequential(*(Block() for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 1, 32, 32] to logits [B, 10]."""
        x = self.embed(images).flatten(2).mT
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


def trained(seed: int) -> tuple[SmallTransformer, Tensor, Tensor, float]:
    """A network, held-out images with their digits, and the share of digits that are read correctly."""
    training, held_out = digit_datasets()
    images, digits = training.tensors
    mean = images.mean(0)
    images = images - mean
    torch.manual_seed(seed)
    model = SmallTransformer()
    epochs, batches = 25, -(-len(images) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, epochs * batches)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[batch]), digits[batch]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    test_images, test_digits = held_out.tensors[0] - mean, held_out.tensors[1]
    with torch.no_grad():
        accuracy = (model(test_images).argmax(1) == test_digits).double().mean().item()
    return model, test_images[:100], test_digits[:100], accuracy


def by_patch(heatmap: Tensor) -> Tensor:
    """Sums [B, patches] of heatmaps [B, 32, 32]."""
    return functional.avg_pool2d(heatmap[:, None].float(), PATCH).flatten(1)


def area(model: nn.Module, images: Tensor, digits: Tensor, scores: Tensor) -> float:
    """Mean distance between the logits when the least relevant patches go first, and the most relevant."""
    def curve(order):
        patches = images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).flatten(2, 3).clone()
        logits = []
        rows = torch.arange(len(images))
        for step in range(GRID ** 2 + 1):
            folded = patches.view(len(images), 1, GRID, GRID, PATCH, PATCH).permute(0, 1, 2, 4, 3, 5)
            logits.append(model(folded.reshape(images.shape))[rows, digits])
            if step < GRID ** 2:
                patches[rows, 0, order[:, step]] = 0
        return torch.stack(logits)

    with torch.no_grad():
        order = scores.argsort(1)
        return (curve(order) - curve(order.flip(1))).mean().item()


def scores_of(model: nn.Module, images: Tensor, digits: Tensor) -> dict[str, Tensor]:
    """The relevance of patches by each method."""
    conditions = [{"y": [int(digit)]} for digit in digits]
    attribution, cp = CondAttribution(model), CondAttribution(model, functional="cp-lrp")
    with torch.no_grad():
        model(images)
    rollout = attention_rollout([block.weights for block in model.blocks])[:, 0, 1:]
    return {
        "AttnLRP, gamma": by_patch(attribution(images, conditions, VisionTransformer()).heatmap),
        "AttnLRP, epsilon": by_patch(attribution(images, conditions, LanguageModel()).heatmap),
        "CP-LRP, gamma": by_patch(cp(images, conditions, VisionTransformer()).heatmap),
        "CP-LRP, epsilon": by_patch(cp(images, conditions, LanguageModel()).heatmap),
        "gradient x input": by_patch(gradient_x_input(attribution, images, conditions).heatmap),
        "absolute gradient": by_patch(
            gradient_x_input(attribution, images, conditions, absolute_gradient=True).heatmap
        ),
        "attention rollout": rollout,
        "integrated gradients": by_patch(
            integrated_gradients(attribution, images, conditions, steps=16).heatmap
        ),
    }


def main() -> None:
    """Print a table with a line for each method."""
    areas: dict[str, list[float]] = {}
    for seed in SEEDS:
        model, images, digits, accuracy = trained(seed)
        print(f"seed {seed}: {accuracy:.1%} of held-out digits are read correctly", flush=True)
        for name, scores in scores_of(model, images, digits).items():
            areas.setdefault(name, []).append(area(model, images, digits, scores))
    print(f"| method |{''.join(f' seed {seed} |' for seed in SEEDS)} mean |\n|{' --- |' * (len(SEEDS) + 2)}")
    for name, found in areas.items():
        print(f"| {name} | {' | '.join(f'{x:.2f}' for x in found)} | {statistics.mean(found):.2f} |")


if __name__ == "__main__":
    main()
