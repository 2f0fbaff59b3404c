"""Small Llamas that learn which verb agrees with the subject of a sentence; one number is known to decide."""
from __future__ import annotations

import random

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

NOUNS = {
    "singular": "key dog child tree author bird teacher king".split(),
    "plural": "keys dogs children trees authors birds teachers kings".split(),
}
VERBS = {"singular": "is was has".split(), "plural": "are were have".split()}
ADJECTIVES, PREPOSITIONS = "old small green clever".split(), "near behind of above".split()
ADVERBS = "here gone lost red".split()
VOCABULARY = sorted({
    *sum(NOUNS.values(), []), *sum(VERBS.values(), []), *ADJECTIVES, *PREPOSITIONS, *ADVERBS, "the", "."
})
LAYERS = 2


def encode(words: list[str]) -> Tensor:
    """Numbers of words."""
    return torch.tensor([VOCABULARY.index(word) for word in words])


def sentence(rng: random.Random) -> list[str]:
    """Such as "the old keys near the green dog are lost ."."""
    number, other = rng.choice(list(NOUNS)), rng.choice(list(NOUNS))
    return [
        "the", rng.choice(ADJECTIVES), rng.choice(NOUNS[number]), rng.choice(PREPOSITIONS), "the",
        rng.choice(ADJECTIVES), rng.choice(NOUNS[other]), rng.choice(VERBS[number]), rng.choice(ADVERBS), ".",
    ]


def trained(seed: int, steps: int = 400) -> LlamaForCausalLM:
    """A model that writes the verb that agrees."""
    rng = random.Random(seed)
    training = torch.stack([encode(sentence(rng)) for _ in range(4000)])
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=48, intermediate_size=96, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16,
    ))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        batch = training[torch.randint(len(training), (64,), generator=torch.Generator().manual_seed(step))]
        loss = functional.cross_entropy(model(batch).logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def pairs(count: int, seed: int = 1000) -> tuple[Tensor, Tensor]:
    """Beginnings of sentences with a plural subject, and the same with a singular one, up to the verb."""
    rng = random.Random(seed)
    plural, singular = [], []
    for _ in range(count):
        words, number = sentence(rng)[:7], rng.randrange(len(NOUNS["plural"]))
        plural.append(encode([*words[:2], NOUNS["plural"][number], *words[3:]]))
        singular.append(encode([*words[:2], NOUNS["singular"][number], *words[3:]]))
    return torch.stack(plural), torch.stack(singular)


def agreement(logits: Tensor) -> Tensor:
    """[B], mean logit of plural verbs over that of singular ones, at the last position."""
    plural, singular = (encode(VERBS[number]) for number in ("plural", "singular"))
    return logits[:, -1, plural].mean(1) - logits[:, -1, singular].mean(1)
