"""Pages of texts: tokens, where concepts are strongest in them, words, and what a language model writes."""
from __future__ import annotations

import difflib
from typing import Any

import numpy as np
import torch

from crp.explorer.documents import Continuation, Snippet, Snippets, TextDocument, Texts, UnitSetting, Words, WordScore
from crp.explorer.live import changes_of, outputs_of
from crp.explorer.source import Source
from crp.explorer.worker import Progress
from crp.model.corpus import Corpus
from crp.model.inputs import call_model
from crp.model.layers import select_output
from crp.neurons import intervene, top_words

MOST_TEXTS, CONTEXT, MOST_NEW_TOKENS, MOST_TYPED, MOST_WORDS = 50, 6, 16, 512, 20


def need_corpus(source: Source) -> Corpus:
    """The texts; a LookupError if there are none."""
    if source.corpus is None:
        raise LookupError("Texts are shown where the dataset of the sweep is a crp.text.Corpus: crp explore SPEC")
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
    LookupError
        If rows of the store are whole samples.
    """
    if not source.store.of_positions:
        raise LookupError("this store has a row for each text: sweep with --rows positions to see tokens by themselves")
    tokens = len(need_corpus(source).tokens(source.samples([sample])[0]))
    rows = source.rows(quantity)
    first, stop = np.searchsorted(rows["sample"], [sample, sample + 1])
    block = source.store.values(source.layer(number), quantity)[np.arange(first, stop)]
    found = np.zeros((len(concepts), tokens), np.float32)
    np.add.at(found.T, rows["position"][first:stop], np.asarray(block)[:, concepts])
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
    corpus = need_corpus(source)
    if not source.store.of_positions:
        raise LookupError("this store has a row for each text: sweep with --rows positions to see words by themselves")
    rows = source.rows(quantity)
    values = np.asarray(source.store.values(source.layer(number), quantity)[:, concept], np.float64)
    names = corpus.of_rows(rows)
    found = top_words(values[:, None], names, 0, MOST_WORDS)
    return Words(
        words=[WordScore(word=word.word or "(no word)", score=word.score, count=word.count) for word in found],
        mean=values.mean(), deviation=values.std(),
    )


def continue_text(
    source: Source, text: str, settings: list[UnitSetting], new_tokens: int, progress: Progress
) -> Continuation:
    """What a language model writes after a text, as it is and with units set; the most probable token each time.

    Raises
    ------
    LookupError
        If the model is none, or there are no texts.
    ValueError
        If the text has no tokens or too many.
    """
    fv, _ = source.need_model()
    corpus = need_corpus(source)
    ids = corpus.tokenizer(text, add_special_tokens=corpus.special_tokens)["input_ids"]
    if not 0 < len(ids) <= MOST_TYPED:
        raise ValueError(f"the text has {len(ids)} tokens; it has at least one and at most {MOST_TYPED}")
    before, text_before = _written(source, ids, new_tokens, lambda share: progress(share / 2))
    with intervene(fv.attribution.model, changes_of(source, settings), concepts=dict(fv.layer_map)):
        after, text_after = _written(source, ids, new_tokens, lambda share: progress(.5 + share / 2))
    words_before, words_after = (_in_words(corpus, found) for found in (text_before, text_after))
    return Continuation(
        tokens=corpus.tokenizer.convert_ids_to_tokens(ids), before=outputs_of(source, before),
        after=outputs_of(source, after), text_before=words_before, text_after=words_after,
        changed=changed_words(words_before, words_after),
    )


def _written(source: Source, ids: list[int], count: int, progress: Progress) -> tuple[torch.Tensor, list[int]]:
    """Outputs for the next token, and the tokens that follow."""
    fv, _ = source.need_model()
    corpus = need_corpus(source)
    found, first = list(ids), None
    for done in range(count):
        progress(done / count)
        inputs = {"input_ids": torch.tensor([found]), "attention_mask": torch.ones(1, len(found), dtype=torch.long)}
        inputs = {name: tensor.to(fv.attribution.device) for name, tensor in inputs.items()}
        with torch.no_grad():
            output = select_output(call_model(fv.attribution.model, inputs), fv.attribution.output, "y")
        if output.ndim not in (2, 3) or output.shape[-1] < len(corpus.tokenizer):
            raise ValueError(
                f"the model gives {tuple(output.shape)} for {len(found)} tokens: it writes no text, for which it would "
                f"have an output for each of the {len(corpus.tokenizer)} tokens that its tokenizer knows"
            )
        last = output.reshape(-1, output.shape[-1])[-1].float().cpu()
        first = last if first is None else first
        found.append(int(last.argmax()))
    assert first is not None
    return first, found[len(ids):]


def _in_words(corpus: Corpus, ids: list[int]) -> list[str]:
    return corpus.tokenizer.decode(ids, skip_special_tokens=True).split()


def changed_words(before: list[str], after: list[str]) -> list[bool]:
    """For each word after, whether it is not what stood there before, by the longest common subsequences."""
    changed = [True] * len(after)
    for block in difflib.SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks():
        changed[block.b:block.b + block.size] = [False] * block.size
    return changed


def text_input(source: Source, text: str) -> dict[str, Any]:
    """An input of the model: a text that somebody typed."""
    fv, _ = source.need_model()
    corpus = need_corpus(source)
    found = Corpus([text], corpus.tokenizer, max_length=corpus.max_length, special_tokens=corpus.special_tokens)
    return {name: tensor[None].to(fv.attribution.device) for name, tensor in found[0][0].items()}
