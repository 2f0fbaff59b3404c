"""Models of token ids, and gradients to compare with."""
import torch
from torch import nn

from crp.concepts import ChannelConcept

LAST = ChannelConcept(-1)


def kept(tensor, ids, axis=-1):
    """The tensor with everything but some channels set to zero."""
    keep = torch.zeros(tensor.shape[axis], dtype=tensor.dtype)
    keep[list(ids)] = 1
    return tensor * torch.movedim(keep.view(-1, *[1] * (tensor.ndim - 1)), 0, axis % tensor.ndim)


def gradient(start, at, relevance=None):
    return torch.autograd.grad(start, at, start if relevance is None else relevance, retain_graph=True)[0]


def select(output, *targets):
    """The output where it is selected, elsewhere zero: the relevance to start with."""
    selected = torch.zeros_like(output)
    for target in targets:
        selected[(slice(None), *target)] = output.detach()[(slice(None), *target)]
    return selected


class Text(nn.Module):
    """Token ids through an embedding, an LSTM and attention."""

    def __init__(self):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(11, 6), nn.LSTM(6, 6, batch_first=True)
        self.attention, self.head = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 4)

    def from_embedding(self, x):
        x = self.lstm(x)[0]
        return self.head(self.attention(x, x, x)[0]).mean(1)

    def forward(self, ids):
        return self.from_embedding(self.embedding(ids))
