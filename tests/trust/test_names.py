"""Names of concepts: by words, by descriptions, by hand; never without a score; kept, and found again."""
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from trusted import swept

from crp.composites import LanguageModel
from crp.concepts import ChannelConcept
from crp.store import ReferenceStore, StoreError
from crp.trust import Names, find, name_concepts

pytestmark = pytest.mark.usefixtures("quick")
COLOURS = ["red", "green", "blue"]


def pictures_of(count=90):
    """Images [3, 4, 4], each mostly of one colour, with noise."""
    torch.manual_seed(0)
    kinds = torch.arange(count) % 3
    images = .2 * torch.rand(count, 3, 4, 4)
    images[torch.arange(count), kinds] += .6
    return TensorDataset(images, kinds)


def embed_images(pictures):
    return np.stack([np.asarray(picture, float).mean((0, 1)) for picture in pictures])


def embed_texts(words):
    return np.stack([[float(word == colour) + .01 for colour in COLOURS] for word in words])


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """Concepts that are the colours of images: green, red, blue."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3)[[1, 0, 2]][:, :, None, None])
        model[0].bias.fill_(-.3)
        model[4].weight.copy_(torch.eye(3)[[1, 0, 2]])
    return swept(tmp_path_factory.mktemp("names") / "store", model, {"1": ChannelConcept()}, pictures_of(),
                 LanguageModel())


def test_words_that_fit_are_chosen_and_scored(coloured):
    fv, composite = coloured
    names = name_concepts(fv, COLOURS, embed_images=embed_images, embed_texts=embed_texts, composite=composite)
    assert names.names == ["green", "red", "blue"] and (names.scores == 1).all()
    assert (names.controls < .5).all()  # a concept is silent at the other colours
    assert str(names[0]) == f"green (AUC 1.00, other names {names.controls[0]:.2f}; by embed_images)"
    assert "concept 0: green (AUC 1.00" in str(names)
    assert names.to_frame()["score"].tolist() == [1, 1, 1]
    with pytest.raises(KeyError, match="concept 3"):
        names[3]


def test_scores_are_how_well_activations_tell_images_of_the_name(coloured):
    fv, composite = coloured
    wrong = name_concepts(fv, {0: "red", 1: "red"}, embed_images=embed_images, embed_texts=embed_texts,
                          composite=composite, save=False, author="me")
    assert wrong.names == ["red", "red"] and wrong.author == "me"
    store = fv.open_store()
    images, kinds = fv.dataset.tensors
    for concept in (0, 1):
        unseen = np.setdiff1d(np.arange(90), store.top("1", concept, "activation", 8).samples)
        values = np.asarray(store.values("1", "activation", normalised=False))[unseen, concept]
        is_red = (kinds == 0).numpy()[unseen]
        pairs = [(a > b) + .5 * (a == b) for a in values[is_red] for b in values[~is_red]]
        assert wrong[concept].score == pytest.approx(np.mean(pairs))
    assert wrong[1].score == 1 and wrong[0].score < .5


def test_descriptions_are_names_too(coloured):
    fv, composite = coloured

    def describe(pictures):
        assert len(pictures) == 8
        return COLOURS[embed_images(pictures).mean(0).argmax()] + " "

    names = name_concepts(fv, describe=describe, embed_images=embed_images, embed_texts=embed_texts,
                          composite=composite, save=False)
    assert names.names == ["green", "red", "blue"] and "describe" in names.author
    with pytest.raises(TypeError, match="what describe gives for concept 0 is a text .* not 3"):
        name_concepts(fv, describe=lambda pictures: 3, embed_images=embed_images, embed_texts=embed_texts,
                      composite=composite)


def test_a_store_with_the_images_beside_it_does_as_well(coloured):
    fv, _ = coloured
    store = ReferenceStore(fv.path)
    names = name_concepts(store, COLOURS, images=fv.dataset, embed_images=embed_images, embed_texts=embed_texts)
    assert names.names == ["green", "red", "blue"]
    with pytest.raises(TypeError, match="a store holds no images"):
        name_concepts(store, COLOURS, embed_images=embed_images, embed_texts=embed_texts)


def test_concepts_are_found_by_a_text(coloured):
    fv, composite = coloured
    store = fv.open_store()
    name_concepts(fv, COLOURS, embed_images=embed_images, embed_texts=embed_texts, composite=composite)
    assert Names.load(store, "1").names == ["green", "red", "blue"]
    by_embedding = find(store, "red", embed_texts)
    assert [found.concept for found in by_embedding][0] == 1 and len(by_embedding) == 3
    assert by_embedding[0].similarity > by_embedding[1].similarity
    assert [found.concept for found in find(store, "Gree")] == [0]
    assert "green (AUC 1.00)" in str(find(store, "green")[0])
    assert find(store, "elephant") == [] and len(find(store, "e", k=2)) == 2
    with pytest.raises(ValueError, match="search with the function that they were named with"):
        find(store, "red", lambda texts: np.ones((1, 7)))


def test_names_are_bound_to_their_sweep(coloured, tmp_path):
    fv, composite = coloured
    names = name_concepts(fv, COLOURS, embed_images=embed_images, embed_texts=embed_texts, composite=composite)
    other, _ = swept(tmp_path)
    store = ReferenceStore(other.path)
    with pytest.raises(ValueError, match="these names are not of"):
        names.save(store)
    with pytest.raises(StoreError, match="holds no names"):
        find(store, "red")


@pytest.mark.parametrize("options, error, told", [
    ({"words": []}, ValueError, "give words to choose from"),
    ({"words": COLOURS, "describe": str}, TypeError, "give one of them"),
    ({"words": COLOURS, "embed_texts": lambda words: np.ones((3, 9))}, ValueError, "9 dimensions, embed_images 3"),
    ({"words": COLOURS, "embed_texts": lambda words: np.ones(3)}, ValueError, "embed_texts gives finite numbers"),
    ({"words": COLOURS, "concepts": [3]}, (IndexError, StoreError, ValueError), "3"),
    ({"words": {0: "green"}, "concepts": [0, 1]}, ValueError, "no name for concept 1"),
    ({"words": "green"}, TypeError, r"words come in a list: \['green'\]"),
    ({"words": ["green", ""]}, TypeError, "a word is a text"),
    ({"words": {0: 3}}, TypeError, "the name of concept 0 is a text"),
    ({"words": COLOURS, "author": "x" * 5000, "save": True}, ValueError, "author"),
    ({"words": COLOURS, "scored": 0}, ValueError, "at least 1"),
])
def test_what_cannot_be_named_is_refused(coloured, options, error, told):
    fv, composite = coloured
    functions = {"embed_images": embed_images, "embed_texts": embed_texts, "composite": composite, "save": False}
    with pytest.raises(error, match=told):
        name_concepts(fv, **(functions | options))


def test_concepts_that_are_named_twice_get_one_name_and_searches_make_sense(coloured):
    fv, composite = coloured
    names = name_concepts(fv, COLOURS, concepts=[1, 1, -1], embed_images=embed_images, embed_texts=embed_texts,
                          composite=composite)
    assert names.concepts.tolist() == [1, 2] and Names.load(fv.open_store(), "1").names == ["red", "blue"]
    store = fv.open_store()
    for arguments, error, told in (
        ((store, "red", None, 0), ValueError, "k is at least 1"), ((store, " "), TypeError, "the text to find"),
        ((fv, "red"), TypeError, "kept in a ReferenceStore"),
        ((store, "red", lambda texts: np.zeros((1, 3))), ValueError, "zero for 'red'"),
    ):
        with pytest.raises(error, match=told):
            find(*arguments[:3], **({"k": arguments[3]} if len(arguments) > 3 else {}))
    with pytest.raises(ValueError, match="images holds 5 samples, the dataset of the sweep 90"):
        name_concepts(store, COLOURS, images=[0] * 5, embed_images=embed_images, embed_texts=embed_texts)
