"""A small vision transformer for digits."""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from crp.demo.digits import accuracy, digit_datasets

PATCH, GRID, WIDTH, HEADS = 4, 8, 48, 4


class Block(nn.Module):
    """A block of a transformer that keeps its attention weights."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, WIDTH] to the same."""
        parts = self.qkv(self.norm1(x)).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        self.weights = functional.softmax(query @ key.mT / query.shape[-1] ** .5, -1)
        x = x + self.project((self.weights @ value).transpose(1, 2).flatten(2))
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


def trained(seed: int, count: int = 100) -> tuple[SmallTransformer, Tensor, Tensor, float]:
    """A network, some held-out images less the mean image, their digits, and the share of digits it reads right."""
    training, held_out = digit_datasets()
    mean = training.tensors[0].mean(0)
    for dataset in (training, held_out):
        dataset.tensors = dataset.tensors[0] - mean, dataset.tensors[1]
    images, digits = training.tensors
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
    return model, *(tensor[:count] for tensor in held_out.tensors), accuracy(model, held_out)
