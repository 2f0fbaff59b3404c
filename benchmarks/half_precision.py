"""How far heatmaps in bfloat16 are from those in float64, on small GPT-2s with random weights.

Largest difference as a share of the largest value, for the relevance of tokens; beside it gradient times embedding,
whose only rounding is that of the model.
"""
from __future__ import annotations

import copy

import torch
import transformers
from torch import nn

from crp.attribution import CondAttribution
from crp.composites import LanguageModel

SEEDS = range(12)


def gpt2(seed: int) -> nn.Module:
    """Six layers whose weights are numbers of bfloat16, in float64."""
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=100, n_embd=64, n_layer=6, n_head=4, bos_token_id=None, eos_token_id=None
    )
    return transformers.GPT2LMHeadModel(config).bfloat16().double().eval()


def relevance(model: nn.Module, ids: torch.Tensor, target: int) -> torch.Tensor:
    """Of each token."""
    attribution = CondAttribution(model, output="logits")
    return attribution(ids, [{"y": [(-1, target)]}], LanguageModel()).heatmap[0].double()


def gradient_times_input(model: nn.Module, ids: torch.Tensor, target: int) -> torch.Tensor:
    """Of each token."""
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    model(inputs_embeds=embedded).logits[0, -1, target].backward()
    return (embedded * embedded.grad)[0].sum(-1).double()


def error(method, exact: nn.Module, ids: torch.Tensor, target: int) -> float:
    """Of a method in bfloat16."""
    expected, found = method(exact, ids, target), method(copy.deepcopy(exact).bfloat16(), ids, target)
    return float((found - expected).abs().max() / expected.abs().max())


def main() -> None:
    """Print the errors."""
    errors = []
    for seed in SEEDS:
        exact = gpt2(seed)
        ids = torch.randint(100, (1, 12))
        target = int(exact(ids).logits[0, -1].argmax())
        errors.append([error(method, exact, ids, target) for method in (relevance, gradient_times_input)])
        print(f"seed {seed}: relevance {errors[-1][0]:.2%}, gradient times input {errors[-1][1]:.2%}")
    for name, values in zip(("relevance", "gradient times input"), zip(*errors)):
        print(f"{name}: {min(values):.2%} to {max(values):.2%}, median {sorted(values)[len(values) // 2]:.2%}")


if __name__ == "__main__":
    main()
