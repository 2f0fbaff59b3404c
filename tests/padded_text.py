"""Sentences of several lengths, padded left or right, and a small transformer that reads them."""
import numpy as np
import torch
from torch import nn

WORDS, WIDTH, HEADS = 30, 8, 2
PAD = 0


class Reader(nn.Module):
    """A transformer whose padded positions are no zeros, and a head that reads the others."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.query, self.value, self.mix = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.inner, self.outer = nn.Linear(WIDTH, 6), nn.Linear(6, WIDTH)
        self.pooled, self.head = nn.Linear(WIDTH, 5), nn.Linear(5, 3)
        self.scores = nn.Identity()

    def forward(self, input_ids, attention_mask):
        x = self.embedding(input_ids)
        scores = self.query(x) @ x.transpose(1, 2)
        weights = self.scores(scores.masked_fill(~attention_mask[:, None].bool(), -1e9).softmax(-1))
        x = x + self.mix(weights @ self.value(x))
        x = x + self.outer(self.inner(x) - 1)
        shown = attention_mask[..., None].to(x)
        return self.head(self.pooled((x * shown).sum(1) / shown.sum(1)).relu())


SENTENCES = [np.random.default_rng(i).integers(3, WORDS, 2 + i % 5).tolist() for i in range(11)]


def item(tokens, length, left, target=0):
    hidden = [PAD] * (length - len(tokens))
    ids = hidden + tokens if left else tokens + hidden
    shown = [0] * len(hidden) + [1] * len(tokens) if left else [1] * len(tokens) + [0] * len(hidden)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(shown), "labels": target}
