"""Naming concepts by their references, scoring the names, and finding concepts by a text."""
from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from zennit.core import Composite

from crp.model.numbers import spread_evenly
from crp.pictures.kinds import vis_inputs
from crp.rules.composites import default_composite
from crp.store.folder import StoreError
from crp.store.reader import ReferenceStore
from crp.trust.arguments import checked_seed, chosen_concepts
from crp.trust.crops import Crops, EmbedImages, embedded, embedded_crops, reference_crops
from crp.trust.names import Names
from crp.trust.semantics import unit_vectors
from crp.visualization.feature_visualization import FeatureVisualization

EmbedTexts: TypeAlias = Callable[[list[str]], Any]
"""Texts [n] -> [n, d]."""
Describe: TypeAlias = Callable[[list[Image.Image]], str]
"""The references of a concept -> what they show."""
_LEAST, _LONGEST = 3, 4096


def name_concepts(
    store: FeatureVisualization | ReferenceStore, words: Sequence[str] | Mapping[int, str] | None = None, *,
    embed_images: EmbedImages, embed_texts: EmbedTexts, describe: Describe | None = None, layer: str | None = None,
    concepts: Any = None, images: Any = None, composite: Composite | None = None, mode: str = "activation",
    references: int = 8, scored: int = 500, author: str | None = None, random_state: int | None = 0, save: bool = True,
) -> Names:
    """Name the concepts of a layer, and score the names.

    A concept gets the word whose embedding stands out most among those near its references, compared with how near the
    word is to the references of all concepts and to other samples, in the manner of CLIP-Dissect; or what ``describe``
    says, or the name that you give. The score of a name is CoSy's: how well the concept's activation tells images of
    the name from others. Images are samples of the dataset that are no references of the concept; their similarities to
    the name fall into two groups, and those of the upper one are images of the name.

    Parameters
    ----------
    store : FeatureVisualization or ReferenceStore
        A store holds no images: it needs ``images``, and shows references whole.
    words : sequence of str, or dict concept -> str, optional
        The words to choose from; or names that you give. Not needed with ``describe``.
    embed_images, embed_texts : callable
        Pictures [n] (``PIL.Image``) and texts [n] -> [n, d] in one space, such as CLIP's.
    describe : callable, optional
        References of a concept (``PIL.Image``) -> its name; a vision-language model, or a person.
    layer : str, optional
        Needed where there are several.
    concepts : int, list, array or tensor of int, optional
        By default all, but those that no sample activates.
    images : sequence, optional
        The dataset of the sweep, for a store: ``images[i]`` is an image, or begins with one.
    composite : zennit.core.Composite, optional
        The rules that crops are made with; by default those of ``crp.composites.default_composite``.
    mode : {"activation", "relevance"}
        Which references.
    references : int, default 8
    scored : int, default 500
        How many samples of the dataset scores look at, evenly.
    author : str, optional
        Who or what gives the names; by default what the functions are called.
    random_state : int or None, default 0
        Of the other names that the control takes.
    save : bool, default True
        Whether the store keeps the names, in the place of those that it has.

    Returns
    -------
    Names

    Raises
    ------
    ValueError, TypeError
        If there is nothing to choose from, functions give something else than they should, or there are no images.

    References
    ----------
    T. Oikarinen, T.-W. Weng (2023). CLIP-Dissect: Automatic Description of Neuron Representations in Deep Vision
    Networks. ICLR.

    L. Kopf, P. L. Bommer, A. Hedström, S. Lapuschkin, M. M.-C. Höhne, K. Bykov (2024). CoSy: Evaluating Textual
    Explanations of Neurons. NeurIPS.
    """
    if describe is None and (words is None or not len(words)):
        raise ValueError("give words to choose from, names {concept: name}, or describe=")
    if describe is not None and words is not None:
        raise TypeError("words and describe both name concepts: give one of them")
    if isinstance(words, str):
        raise TypeError(f"words come in a list: [{words!r}]")
    random_state = checked_seed(random_state)
    if min(references, scored) < 1:
        raise ValueError(f"references and scored are at least 1, not {references} and {scored}")
    source = _Source(store, images, layer, composite, mode)
    ids = source.ids(words if isinstance(words, Mapping) and concepts is None else concepts)
    crops = source.crops(ids, references)
    of_crops = unit_vectors(embedded_crops(crops, embed_images))
    samples = spread_evenly(len(source.rows), scored)
    of_samples = unit_vectors(embedded(embed_images, source.pictures(samples), "embed_images"))
    if describe is not None:
        named = [_described(describe, crops[concept], concept) for concept in ids]
        vocabulary = list(dict.fromkeys(named))
    elif isinstance(words, Mapping):
        lacking = [concept for concept in ids if concept not in words]
        if lacking:
            raise ValueError(f"words gives no name for concept {lacking[0]}")
        named = [_text(words[concept], f"the name of concept {concept}") for concept in ids]
        vocabulary = list(dict.fromkeys(word.strip() for word in words.values()))
    else:
        vocabulary = list(dict.fromkeys(_text(word, "a word") for word in words or ()))
        named = []
    of_words = unit_vectors(embedded(embed_texts, vocabulary, "embed_texts"))
    if of_words.shape[1] != of_crops.shape[2]:
        raise ValueError(f"embed_texts gives {of_words.shape[1]} dimensions, embed_images {of_crops.shape[2]}")
    if not named:
        named = [vocabulary[best] for best in _outstanding(of_crops, of_samples, of_words)]
    scores, controls = _scores(source, ids, samples, of_samples @ of_words.T, vocabulary, named, references,
                               random_state)
    by = author or _called(describe if describe is not None else embed_images)
    found = Names(source.layer, np.array(ids), named, scores, controls, by, unit_vectors(of_crops.mean(1)),
                  source.store.identity())
    if save:
        found.save(source.store)
    return found


class Found(NamedTuple):
    """A concept that fits a text.

    Attributes
    ----------
    layer : str
    concept : int
    similarity : float
        Cosine between the text and the concept's references; without embeddings how much of the text is in its name.
    name : str
    score : float
        Of the name, see :class:`crp.trust.ConceptName`.
    """

    layer: str
    concept: int
    similarity: float
    name: str
    score: float

    def __str__(self) -> str:
        return f"{self.layer} {self.concept}: {self.name} (AUC {self.score:.2f}), similarity {self.similarity:.2f}"


def find(
    store: ReferenceStore, text: str, embed_texts: EmbedTexts | None = None, *, layer: str | None = None, k: int = 10
) -> list[Found]:
    """Concepts that fit a text, the best first, among those that :func:`name_concepts` has seen.

    Parameters
    ----------
    store : ReferenceStore
    text : str
    embed_texts : callable, optional
        That of :func:`name_concepts`: the text is compared with the references. Without it, it is compared with the
        names, as texts.
    layer : str, optional
        By default all that have names.
    k : int, default 10
        How many at most.

    Returns
    -------
    list of Found

    Raises
    ------
    StoreError
        If the store keeps no names.
    ValueError
        If the embeddings have another number of dimensions.
    """
    if not isinstance(store, ReferenceStore):
        raise TypeError(f"names are kept in a ReferenceStore, such as fv.open_store(), not in a {type(store).__name__}")
    if k < 1:
        raise ValueError(f"k is at least 1, not {k}")
    text = _text(text, "the text to find")
    kept = _kept_names(store, store.layers if layer is None else [layer])
    found = []
    for names in kept:
        if embed_texts is None:
            similar = np.array([_likeness(text, name) for name in names.names])
        else:
            query = unit_vectors(embedded(embed_texts, [text], "embed_texts"))[0]
            if not query.any():
                raise ValueError(f"embed_texts gives zero for {text!r}, which is like nothing")
            if names.embeddings.shape[1] != len(query):
                raise ValueError(f"embed_texts gives {len(query)} dimensions, but references were embedded in "
                                 f"{names.embeddings.shape[1]}: search with the function that they were named with")
            similar = names.embeddings @ query
        found += [
            Found(names.layer, int(concept), float(value), name, float(score))
            for concept, value, name, score in zip(names.concepts, similar, names.names, names.scores)
            if embed_texts is not None or value > 0
        ]
    return sorted(found, key=lambda one: -one.similarity)[:k]


class _Source:
    """Where references, pictures and activations come from."""

    def __init__(
        self, source: FeatureVisualization | ReferenceStore, images: Any, layer: str | None,
        composite: Composite | None, mode: str,
    ):
        self.images, self.mode, self.fv = images, mode, None
        if isinstance(source, ReferenceStore):
            if images is None:
                raise TypeError("a store holds no images: give images=, the dataset of the sweep, or the "
                                "FeatureVisualization instead of its store")
            length = source.manifest.settings.dataset.length
            if len(images) != length:
                raise ValueError(f"images holds {len(images)} samples, the dataset of the sweep {length}")
            self.store, known = source, source.layers
        else:
            self.fv, self.store = source, source.open_store()
            self.composite = default_composite(source.attribution.model) if composite is None else composite
            known = list(source.layer_map)
        if layer is None and len(known) > 1:
            raise ValueError(f"say with layer= which layer is meant: there are {', '.join(known)}")
        self.layer = known[0] if layer is None else layer
        self.store.entry(self.layer)
        self.rows = self.store.rows("activation")

    def ids(self, concepts: Any) -> list[int]:
        """The concepts to name."""
        if concepts is not None:
            wanted = sorted(concepts) if isinstance(concepts, Mapping) else concepts
            chosen = chosen_concepts(self.store, self.layer, wanted).tolist()
        else:
            strongest = self.store.sorted_rows(self.layer, self.mode, k=1)[1][0]
            chosen = np.flatnonzero(strongest > 0).tolist()
        if not chosen:
            raise ValueError(f"no sample activates a concept of {self.layer!r}: there is nothing to name")
        return chosen

    def crops(self, ids: list[int], references: int) -> Crops:
        """The references of concepts as pictures."""
        if self.fv is not None:
            return reference_crops(self.fv, self.layer, ids, references, self.composite, self.mode)
        return {
            concept: self._show(self.store.top(self.layer, concept, self.mode, references).samples) for concept in ids
        }

    def pictures(self, rows: np.ndarray) -> list[Image.Image]:
        """Samples of some rows of activation, whole."""
        return self._show(self.rows["sample"][rows])

    def _show(self, samples: Iterable[int]) -> list[Image.Image]:
        numbers = [int(sample) for sample in samples]
        if self.fv is not None:
            shown = [vis_inputs(self.fv.get_data_sample(i, preprocessing=False)[0])[0] for i in numbers]
        else:
            items = [self.images[i] for i in numbers]
            firsts = [item[0] if isinstance(item, (tuple, list)) else item for item in items]
            shown = [one if isinstance(one, Image.Image) else vis_inputs(torch.as_tensor(one)[None])[0]
                     for one in firsts]
        return [picture.convert("RGB") for picture in shown]


def _outstanding(of_crops: np.ndarray, of_samples: np.ndarray, of_words: np.ndarray) -> np.ndarray:
    """[concepts], for each the word that stands out most: by its mean distance from what is usual, in deviations."""
    similar = of_crops @ of_words.T  # [concepts, references, words]
    usual = np.concatenate([similar.reshape(-1, len(of_words)), of_samples @ of_words.T])
    spread = usual.std(0)
    return ((similar.mean(1) - usual.mean(0)) / np.where(spread > 0, spread, np.inf)).argmax(1)


def _scores(
    source: _Source, ids: list[int], samples: np.ndarray, similar: np.ndarray, vocabulary: list[str],
    named: list[str], references: int, random_state: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """CoSy's score of each name, and of other names on average."""
    activation = np.asarray(source.store.values(source.layer, "activation", normalised=False)[samples])
    is_of = np.stack([_upper_group(column) for column in similar.T], 1)  # [samples, words]
    random = np.random.default_rng(random_state)
    scores, controls = np.full(len(ids), np.nan), np.full(len(ids), np.nan)
    for i, (concept, name) in enumerate(zip(ids, named)):
        top = source.store.top(source.layer, concept, source.mode, references).samples
        unseen = ~np.isin(source.rows["sample"][samples], top)
        own = vocabulary.index(name)
        others = [word for word in range(len(vocabulary)) if word != own]
        others = random.choice(others, min(len(others), 20), replace=False).tolist() if others else []
        values = activation[unseen, concept]
        scores[i] = _auc(values, is_of[unseen, own])
        found = [value for word in others if not np.isnan(value := _auc(values, is_of[unseen, word]))]
        controls[i] = np.mean(found) if found else np.nan
    return scores, controls


def _auc(values: np.ndarray, is_of_name: np.ndarray) -> float:
    if min(is_of_name.sum(), (~is_of_name).sum()) < _LEAST:
        return float("nan")
    return float(roc_auc_score(is_of_name, values))


def _upper_group(values: np.ndarray) -> np.ndarray:
    """Which values are in the upper of two groups, split where they differ least within themselves (Otsu, 1979)."""
    order = np.sort(values)
    count = np.arange(1, len(order))
    below = np.cumsum(order)[:-1] / count
    above = (order.sum() - np.cumsum(order)[:-1]) / (len(order) - count)
    between = count * (len(order) - count) * (above - below) ** 2
    return values >= order[1 + between.argmax()] if len(order) > 1 else np.zeros(len(values), bool)


def _described(describe: Describe, crops: list[Image.Image], concept: int) -> str:
    return _text(describe(crops), f"what describe gives for concept {concept}")


def _text(found: Any, what: str) -> str:
    if not isinstance(found, str) or not found.strip() or len(found) > _LONGEST:
        raise TypeError(f"{what} is a text of at most {_LONGEST} characters, and not empty, not {found!r:.80}")
    return found.strip()


def _called(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))


def _kept_names(store: ReferenceStore, layers: list[str]) -> list[Names]:
    found = [names for layer in layers if (names := Names.kept(store, layer)) is not None]
    if not found:
        raise StoreError(f"{store.path} holds no names for {', '.join(layers)}: give them with name_concepts")
    return found


def _likeness(text: str, name: str) -> float:
    """1 if a text is in a name; else how alike they are, or 0 if not at all."""
    text, name = text.casefold(), name.casefold()
    if text in name:
        return 1.
    ratio = difflib.SequenceMatcher(None, text, name).ratio()
    return ratio if ratio >= .6 else 0.
