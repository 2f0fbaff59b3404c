"""What a language model writes, as it is and with units set to other values."""
from __future__ import annotations

import difflib

import torch

from crp.explorer.documents import Continuation, UnitSetting
from crp.explorer.live.manipulating import changes_of
from crp.explorer.live.outputs import output_of, outputs_of
from crp.explorer.source import Source
from crp.explorer.text_pages import need_corpus
from crp.explorer.worker import Progress
from crp.model.corpus import Corpus
from crp.neurons import intervene

MOST_TYPED = 512


def continue_text(
    source: Source, text: str, settings: list[UnitSetting], new_tokens: int, progress: Progress
) -> Continuation:
    """What a language model writes after a text, as it is and with units set; the most probable token each time.

    Raises
    ------
    NotThereError
        If the model is none, or there are no texts.
    ValueError
        If the text has no tokens or too many.
    """
    fv, _ = source.need_model()
    corpus = need_corpus(source)
    try:
        ids = corpus.tokenizer(text, add_special_tokens=corpus.special_tokens)["input_ids"]
    except Exception as error:  # whatever a tokenizer raises at words that it does not know
        raise ValueError(f"the tokenizer cannot read this text: {error}") from error
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
        output = output_of(source, inputs)
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
