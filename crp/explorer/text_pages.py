"""Pages of texts: tokens, where concepts are strongest in them, and words."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crp.explorer.documents import Snippet, Snippets, TextDocument, Texts, Words, WordScore
from crp.explorer.source import NotThereError, Source

if TYPE_CHECKING:
    from crp.model.corpus import Corpus

BY_TEXT = "this store has a row for each text: sweep with --rows positions to see tokens by themselves"
MOST_TEXTS, CONTEXT, MOST_NEW_TOKENS, MOST_WORDS = 50, 6, 16, 20


def need_corpus(source: Source) -> Corpus:
    """The texts; a NotThereError if there are none."""
    if source.corpus is None:
        raise NotThereError("Texts are shown where the dataset of the sweep is a crp.text.Corpus: crp explore SPEC")
    return source.corpus


def texts(source: Source, first: int, count: int) -> Texts:
    """Some texts, token by token."""
    corpus = need_corpus(source)
    known = source.known_samples
    chosen = known[first:first + min(count, MOST_TEXTS)].tolist()
    rows = source.rows("relevance")
    return Texts(first=first, of=len(known), texts=[
        TextDocument(
            sample=sample, tokens=corpus.tokens(sample), targets=sorted({
                int(target) for target in rows["target"][rows["sample"] == sample] if target >= 0
            }),
        ) for sample in chosen
    ])


def token_values(source: Source, number: int, quantity: str, concepts: list[int], sample: int) -> np.ndarray:
    """[concepts, tokens] float32 of a text, from a store of positions; tokens without a row are 0.

    Raises
    ------
    NotThereError
        If rows of the store are whole samples.
    """
    if not source.store.of_positions:
        raise NotThereError(BY_TEXT)
    tokens = len(need_corpus(source).tokens(source.samples([sample])[0]))
    rows = source.rows(quantity)
    chosen = np.arange(*np.searchsorted(rows["sample"], [sample, sample + 1]))
    chosen = chosen[rows["target"][chosen] == rows["target"][chosen[:1]]]  # of several targets the first
    found = np.zeros((len(concepts), tokens), np.float32)
    block = np.asarray(source.store.values(source.layer(number), quantity)[chosen])
    found.T[rows["position"][chosen]] = block[:, concepts]
    return found


def snippets(source: Source, number: int, quantity: str, concepts: list[int], k: int) -> Snippets:
    """Where in texts concepts are strongest."""
    corpus = need_corpus(source)
    found = []
    for concept in concepts:
        top = source.store.top(source.layer(number), concept, quantity, k)
        found.append([
            _snippet(corpus.tokens(sample), sample, position, value) for sample, value, position in zip(
                top.samples.tolist(), top.values.tolist(), top.positions.tolist()
            )
        ])
    return Snippets(concepts=found)


def _snippet(tokens: list[str], sample: int, position: int, value: float) -> Snippet:
    at = min(position, len(tokens) - 1)
    first = max(at - CONTEXT, 0)
    return Snippet(
        sample=sample, position=at, tokens=tokens[first:at + CONTEXT + 1], at=at - first, value=value,
    )


def words(source: Source, number: int, quantity: str, concept: int) -> Words:
    """The words at which a concept is strongest, in a store of positions."""
    from crp.neurons import top_words

    corpus = need_corpus(source)
    if not source.store.of_positions:
        raise NotThereError(BY_TEXT)
    rows = source.rows(quantity)
    values = np.asarray(source.store.values(source.layer(number), quantity)[:, concept], np.float64)
    names = corpus.of_rows(rows)
    found = top_words(values[:, None], names, 0, MOST_WORDS)
    return Words(
        words=[WordScore(word=word.word or "(no word)", score=word.score, count=word.count) for word in found],
        mean=values.mean(), deviation=values.std(),
    )
