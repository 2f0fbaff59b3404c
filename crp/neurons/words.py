"""Units of language models word by word, and the words at which they are strongest."""
from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from zennit.core import Composite

from crp.attribution.conditional import CondAttribution
from crp.concepts import ChannelConcept, as_layer_map
from crp.concepts.encoded import EncodedConcept
from crp.model.corpus import Corpus
from crp.model.inputs import map_tensors
from crp.neurons.interventions import activations_at
from crp.rules.attach import run_exclusively
from crp.rules.restoring import TensorState

SUBWORDS = ("last", "first", "mean", "all")


@dataclass(frozen=True, eq=False)
class WordValues:
    """What units do at each word of a corpus; rows for :func:`crp.neurons.rank` and others.

    Attributes
    ----------
    values : dict
        Layer -> [rows, units] float32.
    words : numpy.ndarray
        [rows], the word of each row; its token, where rows are tokens.
    texts : numpy.ndarray
        [rows], number of the text: ``groups=`` for what is fitted.
    samples, positions : numpy.ndarray
        [rows], sample of the corpus, and place of the word (of the token) in it.
    """

    values: dict[str, np.ndarray] = field(repr=False)
    words: np.ndarray
    texts: np.ndarray = field(repr=False)
    samples: np.ndarray = field(repr=False)
    positions: np.ndarray = field(repr=False)

    def __repr__(self) -> str:
        layers = ", ".join(f"{layer!r} {values.shape}" for layer, values in self.values.items())
        return f"WordValues({len(self):,} rows of {len(np.unique(self.texts))} texts; {layers})"

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.words)

    def labels(self, of_words: list[list[Any]]) -> list[Any]:
        """A label for each row, from those of each word of each sample, as ``Corpus.label_words`` gives them."""
        try:
            return [of_words[sample][place] for sample, place in zip(self.samples.tolist(), self.positions.tolist())]
        except IndexError:
            raise ValueError("there is not a label for each word of each sample: is it another corpus?") from None


def word_values(
    attribution: CondAttribution, corpus: Corpus, layers: Any, *, quantity: str = "activation", subwords: str = "last",
    composite: Composite | None = None, y: Any = None, batch_size: int = 16, verbose: bool = True,
) -> WordValues:
    """Read what units do at each word.

    Parameters
    ----------
    attribution : CondAttribution
        Of the model.
    corpus : crp.text.Corpus
    layers : list of str, or dict layer -> Concept
        Layers [B, T, features] (or with positions alike); a list means the features on the last axis.
    quantity : {"activation", "relevance"}
    subwords : {"last", "first", "mean", "all"}
        Which token stands for a word of several: the last or first one, or their mean. With "all" each token is a row,
        special ones as well, and ``words`` are the tokens.
    composite, y : optional
        For relevance, which needs rules: outputs as they stand under "y", by default the largest output [B, classes] of
        each sample; outputs with positions need it.
    batch_size : int, default 16
        Most samples that run at once; those of a length do, so that none is padded.
    verbose : bool, default True
        Whether to show a progress bar.

    Returns
    -------
    WordValues

    Raises
    ------
    ValueError, TypeError
        If a layer has another number of positions than the texts have tokens, or arguments do not fit.
    """
    if quantity not in ("activation", "relevance"):
        raise ValueError(f"quantity is 'activation' or 'relevance', not {quantity!r}")
    if subwords not in SUBWORDS:
        raise ValueError(f"subwords is {', '.join(map(repr, SUBWORDS))}, not {subwords!r}")
    if quantity == "relevance" and composite is None:
        raise ValueError("relevance needs a composite: word_values(..., composite=default_composite(model))")
    if not isinstance(corpus, Corpus):
        raise TypeError(f"corpus is a crp.text.Corpus, Corpus(texts, tokenizer), not a {type(corpus).__name__}")
    concepts = as_layer_map(layers)
    if not isinstance(layers, dict):
        concepts = {layer: ChannelConcept(-1) for layer in concepts}
    rows: dict[str, list[np.ndarray]] = {layer: [np.empty(0)] * len(corpus) for layer in concepts}
    with tqdm(total=len(corpus), desc="words", disable=not verbose) as bar:
        for numbers, inputs in corpus.batches(batch_size):
            found = _read(attribution, inputs, list(concepts), quantity, composite, y)
            for layer, concept in concepts.items():
                tensor = found[layer]
                if isinstance(concept, EncodedConcept) and quantity == "activation":
                    tensor = concept.code_of(tensor)
                at_tokens = concept.at_positions(tensor, layer).movedim(1, 2).float().cpu().numpy()
                tokens = inputs["input_ids"].shape[1]
                if at_tokens.shape[1] != tokens:
                    raise ValueError(
                        f"layer {layer!r} has {at_tokens.shape[1]} positions by {concept!r}, but texts of {tokens} "
                        "tokens went in"
                    )
                for number, values in zip(numbers, at_tokens):
                    rows[layer][number] = _by_word(values, corpus.word_of_tokens(number), subwords)
            bar.update(len(numbers))
    words = [corpus.tokens(i) if subwords == "all" else corpus.words(i) for i in range(len(corpus))]
    samples = np.repeat(np.arange(len(corpus)), [len(names) for names in words])
    texts = np.array([corpus.text_of(sample) for sample in range(len(corpus))])
    return WordValues(
        {layer: np.concatenate(parts) for layer, parts in rows.items()}, np.array(list(chain.from_iterable(words))),
        texts[samples], samples, np.concatenate([np.arange(len(names)) for names in words]),
    )


def _read(
    attribution: CondAttribution, inputs: dict[str, Tensor], layers: list[str], quantity: str,
    composite: Composite | None, y: Any,
) -> dict[str, Tensor]:
    if quantity == "activation":
        model = attribution.model
        return run_exclusively(model, lambda: activations_at(model, inputs, layers), TensorState(model).restore)
    data = map_tensors(lambda tensor: tensor.to(attribution.device), inputs)
    count = len(inputs["input_ids"])
    conditions = [{attribution.MODEL_OUTPUT_NAME: y}] * count if y is not None else [{}] * count
    init_rel = None if y is not None else _value_of_the_largest
    return attribution(
        data, conditions, composite, layers, init_rel=init_rel, exclude_parallel=False, heatmap=False
    ).relevances


def _value_of_the_largest(output: Tensor) -> Tensor:
    if output.ndim != 2:
        raise ValueError(f"the output has the shape {tuple(output.shape)}: say with y= which of it is meant")
    return torch.zeros_like(output).scatter(1, output.argmax(1, keepdim=True), output.amax(1, keepdim=True))


def _by_word(values: np.ndarray, word_of: np.ndarray, subwords: str) -> np.ndarray:
    """[words, units], from those of tokens [T, units]; with "all" as they are."""
    if subwords == "all":
        return values
    count = int(word_of.max()) + 1
    tokens = [np.flatnonzero(word_of == word) for word in range(count)]
    if subwords == "mean":
        return np.stack([values[of_word].mean(0) for of_word in tokens])
    return values[[of_word[-1 if subwords == "last" else 0] for of_word in tokens]]


@dataclass(frozen=True)
class TopWord:
    """A word at which a unit is strong.

    Attributes
    ----------
    word : str
    score : float
        Its mean, in standard deviations of the unit from its mean; or the largest value.
    count : int
        How often it occurs.
    """

    word: str
    score: float
    count: int


def top_words(
    values: Any, words: Any, unit: int, k: int = 10, *, by: str = "mean", least_count: int = 1
) -> list[TopWord]:
    """The words at which a unit is strongest.

    Parameters
    ----------
    values : array-like
        [rows, units]
    words : array-like
        [rows]
    unit : int
    k : int, default 10
    by : {"mean", "maximum"}
        The mean over the occurrences of a word, in standard deviations from the mean of the unit; or the largest value.
    least_count : int, default 1
        Words that occur less often are left out.

    Returns
    -------
    list of TopWord
        The strongest first; on ties by the alphabet.

    Raises
    ------
    ValueError, IndexError
        If there is not a word for each row, or no such unit.
    """
    matrix, names = np.asarray(values), np.asarray(words)
    if matrix.ndim != 2 or names.shape != (len(matrix),):
        raise ValueError(f"values are [rows, units] with a word for each row, not {matrix.shape} and {names.shape}")
    if not 0 <= unit < matrix.shape[1]:
        raise IndexError(f"unit {unit} is out of range: units are 0 to {matrix.shape[1] - 1}")
    if by not in ("mean", "maximum"):
        raise ValueError(f"by is 'mean' or 'maximum', not {by!r}")
    column = matrix[:, unit].astype(np.float64)
    types, place, counts = np.unique(names, return_inverse=True, return_counts=True)
    if by == "mean":
        scale = column.std()
        scores = (np.bincount(place, column) / counts - column.mean()) / scale if scale > 0 else np.zeros(len(types))
    else:
        scores = np.full(len(types), -np.inf)
        np.maximum.at(scores, place, column)
    order = [i for i in np.argsort(-scores, kind="stable") if counts[i] >= least_count][:k]
    return [TopWord(str(types[i]), float(scores[i]), int(counts[i])) for i in order]


def with_random_weights(model: nn.Module, random_state: int = 0) -> nn.Module:
    """A model of the same architecture that knows nothing: a control for what probes find.

    Modules draw their weights anew, as when they were made; parameters of modules that cannot, such as those of
    Hugging Face's norms, keep their values in another order.

    Parameters
    ----------
    model : torch.nn.Module
    random_state : int, default 0

    Returns
    -------
    torch.nn.Module
        A copy, in evaluation mode.
    """
    control = copy.deepcopy(model)
    draw_weights_anew(control.modules(), random_state)
    return control.eval()


def draw_weights_anew(modules: Iterable[nn.Module], random_state: int) -> None:
    """Draw the own parameters of modules anew, as when they were made; of those that cannot, put them in another order.

    Parameters
    ----------
    modules : iterable of torch.nn.Module
        Changed in place; parts of them only where they are among them.
    random_state : int
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(random_state)
        for module in modules:
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                order = torch.randperm(parameter.numel()).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view(parameter.shape))
