"""Texts as inputs of a language model, and the words that their tokens are of."""
from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

_ENDLESS = 10 ** 6  # what tokenizers say that know of no limit


class _Text(NamedTuple):
    """A text, or a part of one: its tokens, and the word of each, -1 for none."""

    text: int
    ids: list[int]
    words: list[str]
    word_of: np.ndarray
    extra: dict[str, list[int]]


class Corpus:
    """Texts as a dataset of a language model: tokens by a tokenizer of Hugging Face, and the words they belong to.

    ``corpus[i]`` is what a model takes of text ``i``, without a batch axis, and its target. To be swept as
    ``FeatureVisualization(attribution, corpus, layers, collate_fn=corpus.collate)``.

    Parameters
    ----------
    texts : sequence of str, or of lists of str
        Words of a text are what stands between spaces; or those of the lists.
    tokenizer : transformers.PreTrainedTokenizerFast
        Its offsets say which token is of which word.
    targets : sequence, optional
        One for each text.
    max_length : int, optional
        Most tokens of a sample; by default what the tokenizer says.
    on_long : {"raise", "split"}
        What to do about longer texts: refuse them, or cut them between words into several samples, which have the
        target of the text.
    special_tokens : bool, default True
        Whether to add what the tokenizer adds to texts, such as ``[CLS]``. They belong to no word.

    Raises
    ------
    TypeError, ValueError
        If the tokenizer has no offsets, texts are empty, or too long.
    """

    def __init__(
        self, texts: Sequence[str | Sequence[str]], tokenizer: Any, *, targets: Sequence[Any] | None = None,
        max_length: int | None = None, on_long: str = "raise", special_tokens: bool = True,
    ):
        if not getattr(tokenizer, "is_fast", False):
            raise TypeError(
                f"{type(tokenizer).__name__} does not tell where tokens are in a text: a fast tokenizer does, such as "
                "AutoTokenizer.from_pretrained(..., use_fast=True)"
            )
        if isinstance(texts, str) or len(texts) == 0:
            raise ValueError("texts is a list of at least one text")
        if targets is not None and len(targets) != len(texts):
            raise ValueError(f"there are {len(texts)} texts, but {len(targets)} targets")
        if on_long not in ("raise", "split"):
            raise ValueError(f"on_long is 'raise' or 'split', not {on_long!r}")
        self.tokenizer, self.targets, self.special_tokens = tokenizer, targets, special_tokens
        limit = tokenizer.model_max_length if max_length is None else max_length
        self.max_length = limit if limit < _ENDLESS else None
        self._samples = [sample for number, text in enumerate(texts) for sample in self._parts(number, text, on_long)]

    def __len__(self) -> int:
        """Number of samples: of texts, or of parts of them where they were cut."""
        return len(self._samples)

    def __repr__(self) -> str:
        tokens = sum(len(sample.ids) for sample in self._samples)
        words = sum(len(sample.words) for sample in self._samples)
        return f"Corpus({len(self)} samples, {words:,} words, {tokens:,} tokens)"

    def __getitem__(self, index: int) -> tuple[dict[str, torch.Tensor], Any]:
        sample = self._samples[index]
        inputs = {"input_ids": sample.ids, "attention_mask": [1] * len(sample.ids), **sample.extra}
        target = None if self.targets is None else self.targets[sample.text]
        return {name: torch.tensor(values) for name, values in inputs.items()}, target

    def collate(self, items: Sequence[tuple[dict[str, torch.Tensor], Any]]) -> tuple[dict[str, torch.Tensor], Any]:
        """A batch of items, padded as the tokenizer pads, and their targets."""
        if self.tokenizer.pad_token_id is None and len({len(inputs["input_ids"]) for inputs, _ in items}) > 1:
            raise ValueError(
                "texts of several lengths are padded, but the tokenizer has no padding token: tokenizer.pad_token = "
                "tokenizer.eos_token gives it one, which the attention mask hides"
            )
        length = max(len(inputs["input_ids"]) for inputs, _ in items)
        fill = {"input_ids": self.tokenizer.pad_token_id or 0}
        batch = {
            name: torch.stack([self._padded(inputs[name], length, fill.get(name, 0)) for inputs, _ in items])
            for name in items[0][0]
        }
        targets = [target for _, target in items]
        return batch, None if all(target is None for target in targets) else targets

    def batches(self, batch_size: int = 16) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """All samples, some of one length at a time, which need no padding: their numbers, and inputs of the model."""
        by_length: dict[int, list[int]] = {}
        for number, sample in enumerate(self._samples):
            by_length.setdefault(len(sample.ids), []).append(number)
        for _, alike in sorted(by_length.items()):
            for first in range(0, len(alike), batch_size):
                numbers = alike[first:first + batch_size]
                yield numbers, self.collate([self[number] for number in numbers])[0]

    def text_of(self, index: int) -> int:
        """Number of the text that a sample is of, or is a part of."""
        return self._samples[index].text

    def tokens(self, index: int) -> list[str]:
        """Tokens of a sample, as the tokenizer writes them."""
        return self.tokenizer.convert_ids_to_tokens(self._samples[index].ids)

    def words(self, index: int) -> list[str]:
        """Words of a sample."""
        return list(self._samples[index].words)

    def word_of_tokens(self, index: int) -> np.ndarray:
        """[T], for each token of a sample the place of its word; -1 for tokens that belong to none."""
        return self._samples[index].word_of.copy()

    def of_rows(self, rows: np.ndarray, what: str = "words") -> np.ndarray:
        """The word, or the token, of each row of a store that was swept with ``rows="positions"``.

        Parameters
        ----------
        rows : numpy.ndarray
            ``store.rows(quantity)``, of a sweep of this corpus with ``collate_fn=corpus.collate``.
        what : {"words", "tokens"}

        Returns
        -------
        numpy.ndarray
            [rows] of str; no words for tokens that belong to none.

        Raises
        ------
        ValueError
            If rows are not of tokens of this corpus.
        """
        if what not in ("words", "tokens"):
            raise ValueError(f"what is 'words' or 'tokens', not {what!r}")
        found = []
        for sample, position in zip(rows["sample"].tolist(), rows["position"].tolist()):
            if not 0 <= sample < len(self) or not 0 <= position < len(self._samples[sample].ids):
                raise ValueError(f"sample {sample} of this corpus has no token {position}")
            own = self._samples[sample]
            if what == "tokens":
                found.append(self.tokenizer.convert_ids_to_tokens(own.ids[position]))
            else:
                found.append(own.words[own.word_of[position]] if own.word_of[position] >= 0 else "")
        return np.array(found)

    def label_words(
        self, by: Collection[str] | str | re.Pattern | os.PathLike | Callable[[str], Any]
    ) -> list[list[Any]]:
        """A label for each word of each sample.

        Parameters
        ----------
        by : set or list of str, str, re.Pattern, Path or callable
            Words that are True and all others False; a regular expression that whole words match or not; a file with a
            word per line, or with a word and its label between which a tab stands (words that are not there have
            None); or a function ``word -> label``.
        """
        label = _labeller(by)
        return [[label(word) for word in sample.words] for sample in self._samples]

    def _parts(self, number: int, given: str | Sequence[str], on_long: str) -> Iterator[_Text]:
        words = given.split() if isinstance(given, str) else list(given)
        if not words or not all(isinstance(word, str) and word.strip() for word in words):
            raise ValueError(f"text {number} is {given!r:.60}: a text has words, which are not empty")
        text = given if isinstance(given, str) else " ".join(words)
        spans = _spans_of(text, words)
        found = self._encoded(number, text, spans)
        if self.max_length is None or len(found.ids) <= self.max_length:
            yield found
            return
        if on_long == "raise":
            raise ValueError(
                f"text {number} has {len(found.ids)} tokens, more than the {self.max_length} of a sample: on_long="
                "'split' cuts it into several samples"
            )
        first = 0
        while first < len(words):
            part = self._longest_part(number, text, spans[first:])
            yield part
            first += len(part.words)

    def _longest_part(self, number: int, text: str, spans: list[tuple[int, int]]) -> _Text:
        """As many words as fit into a sample."""
        count = len(spans)
        while count:
            part = self._encoded(number, text, spans[:count])
            if self.max_length is None or len(part.ids) <= self.max_length:
                return part
            count = min(count - 1, int(count * self.max_length / len(part.ids)))
        word = text[slice(*spans[0])]
        raise ValueError(f"text {number}: the word {word!r:.40} alone has more than {self.max_length} tokens")

    def _encoded(self, number: int, text: str, spans: list[tuple[int, int]]) -> _Text:
        """Tokens of the part of a text that some words take up."""
        start, stop = spans[0][0], spans[-1][1]
        encoded = self.tokenizer(
            text[start:stop], add_special_tokens=self.special_tokens, return_offsets_mapping=True, truncation=False,
            verbose=False,
        )
        words = [text[slice(*span)] for span in spans]
        word_at = np.full(stop - start + 1, -1)
        for place, (first, end) in enumerate(spans):
            word_at[first - start:end - start] = place
        word_of = _by_offsets(word_at, encoded["offset_mapping"], encoded.sequence_ids(0))
        missing = np.setdiff1d(np.arange(len(words)), word_of)
        if len(missing):
            raise ValueError(f"text {number}: the tokenizer leaves nothing of the word {words[missing[0]]!r:.40}")
        known = ("input_ids", "attention_mask", "offset_mapping")
        extra = {name: list(values) for name, values in encoded.items() if name not in known}
        return _Text(number, list(encoded["input_ids"]), words, word_of, extra)

    def _padded(self, values: torch.Tensor, length: int, fill: int) -> torch.Tensor:
        rest = values.new_full((length - len(values),), fill)
        return torch.cat([rest, values] if self.tokenizer.padding_side == "left" else [values, rest])


def _spans_of(text: str, words: list[str]) -> list[tuple[int, int]]:
    """Where words begin and end in the text that they follow each other in."""
    spans, at = [], 0
    for word in words:
        start = text.index(word, at)
        at = start + len(word)
        spans.append((start, at))
    return spans


def _by_offsets(
    word_at: np.ndarray, offsets: Sequence[tuple[int, int]], sequence: Sequence[int | None]
) -> np.ndarray:
    """The word of each token of the text: that of its first character that is of one; of a space the next."""
    word_of = np.full(len(offsets), -1)
    for token, ((start, _), of_text) in enumerate(zip(offsets, sequence)):
        following = word_at[start:]
        following = following[following >= 0]
        if of_text is not None:
            word_of[token] = following[0] if len(following) else word_at.max()
    return word_of


def _labeller(by: Any) -> Callable[[str], Any]:
    if callable(by):
        return by
    if isinstance(by, (str, re.Pattern)):
        pattern = re.compile(by)
        return lambda word: pattern.fullmatch(word) is not None
    if isinstance(by, os.PathLike):
        lines = [line.split("\t") for line in Path(by).read_text("utf-8").splitlines() if line.strip()]
        if all(len(line) == 2 for line in lines):
            return {word: label.strip() for word, label in lines}.get
        if any(len(line) > 1 for line in lines):
            raise ValueError(f"{by} has a word per line, or a word, a tab and a label in each")
        by = [line[0].strip() for line in lines]
    if isinstance(by, Collection):
        words = set(by)
        return lambda word: word in words
    raise TypeError(f"words are labelled by a set, a regular expression, a file (a Path) or a function, not {by!r}")
