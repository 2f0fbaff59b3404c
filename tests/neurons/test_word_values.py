"""Texts, their words and tokens, and what units do at them."""
import re

import numpy as np
import pytest
import torch
import transformers
from random_language_models import language_models
from small_sweeps import hooks_of
from small_tokenizers import TEXTS, TOKENIZERS, wordpiece
from torch import nn
from zennit.composites import EpsilonPlus

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept, HeadConcept
from crp.neurons import rank, top_words, with_random_weights, word_values
from crp.text import Corpus
from crp.visualization import FeatureVisualization


@pytest.fixture(params=TOKENIZERS, scope="module")
def tokenizer(request):
    return TOKENIZERS[request.param]()


def bert(vocabulary, **options):
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(transformers.BertConfig(
        vocab_size=vocabulary, hidden_size=16, num_attention_heads=4, num_hidden_layers=2, intermediate_size=32,
        max_position_embeddings=64, num_labels=3, **options,
    )).eval()


def test_tokens_know_their_words(tokenizer):
    corpus = Corpus(TEXTS, tokenizer)
    assert len(corpus) == 4 and "4 samples" in repr(corpus)
    for number, text in enumerate(TEXTS):
        assert corpus.words(number) == text.split()
        inputs, target = corpus[number]
        assert target is None and set(inputs) >= {"input_ids", "attention_mask"}
        word_of, tokens = corpus.word_of_tokens(number), corpus.tokens(number)
        assert len(word_of) == len(tokens) == len(inputs["input_ids"])
        assert (np.diff(word_of[word_of >= 0]) >= 0).all()
        for word, of_word in enumerate(corpus.words(number)):
            ids = inputs["input_ids"][torch.from_numpy(word_of == word)]
            decoded = re.sub(r"[\s▁]", "", tokenizer.decode(ids)).replace("##", "")
            if tokenizer.unk_token is None or tokenizer.unk_token not in decoded:
                assert decoded in (of_word, of_word.lower(), of_word.lower().replace("ï", "i").replace("é", "e"))
        special = [token in tokenizer.all_special_tokens and token != tokenizer.unk_token for token in tokens]
        assert ((word_of == -1) == special).all()


def test_lists_of_words_stay_as_they_are(tokenizer):
    words = ["The", "teacher's", "small tree", "dog,", "3.14"]
    corpus = Corpus([words], tokenizer)
    assert corpus.words(0) == words and set(corpus.word_of_tokens(0)) >= set(range(5))


def test_special_tokens_may_be_left_out(tokenizer):
    corpus = Corpus(TEXTS, tokenizer, special_tokens=False)
    assert all((corpus.word_of_tokens(number) >= 0).all() for number in range(4))


def test_long_texts_are_refused_or_cut_between_words(tokenizer):
    with pytest.raises(ValueError, match="text 0 has .* tokens, more than the 8 of a sample: on_long='split'"):
        Corpus(TEXTS, tokenizer, max_length=8)
    corpus = Corpus(TEXTS, tokenizer, max_length=14, on_long="split", targets=[5, 6, 7, 8])
    assert len(corpus) > 4 and all(len(corpus[i][0]["input_ids"]) <= 14 for i in range(len(corpus)))
    for number, text in enumerate(TEXTS):
        parts = [i for i in range(len(corpus)) if corpus.text_of(i) == number]
        assert sum((corpus.words(i) for i in parts), []) == text.split()
        assert all(corpus[i][1] == 5 + number for i in parts)
    with pytest.raises(ValueError, match="alone has more than 3 tokens"):
        Corpus(["unbelievably"], tokenizer, max_length=3, on_long="split")


def test_batches_are_padded_as_the_tokenizer_pads(tokenizer):
    corpus = Corpus(TEXTS, tokenizer, targets=[0, 1, 2, 0])
    batch, targets = corpus.collate([corpus[i] for i in range(4)])
    expected = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected["input_ids"]) and targets == [0, 1, 2, 0]
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    numbers = [number for part, inputs in corpus.batches(2) for number in part if inputs["attention_mask"].all()]
    assert sorted(numbers) == [0, 1, 2, 3]


@pytest.mark.parametrize("texts, options, message", [
    ("one text", {}, "a list"), ([], {}, "at least one"), (["a", ""], {}, "text 1 is ''"),
    ([["a", " "]], {}, "not empty"),
    (["a"], {"targets": [1, 2]}, "1 texts, but 2 targets"), (["a"], {"on_long": "cut"}, "'raise' or 'split'"),
])
def test_bad_texts_are_refused(texts, options, message):
    with pytest.raises(ValueError, match=message):
        Corpus(texts, wordpiece(), **options)
    with pytest.raises(TypeError, match="does not tell where tokens are"):
        Corpus(["a"], object())


def test_words_are_labelled_in_many_ways(tmp_path):
    corpus = Corpus(TEXTS[:1], wordpiece())
    words = TEXTS[0].split()
    assert corpus.label_words({"keys", "are"}) == [[word in ("keys", "are") for word in words]]
    assert corpus.label_words(r"[A-Z].*") == [[word[0].isupper() for word in words]]
    assert corpus.label_words(re.compile(".*s")) == [[word.endswith("s") for word in words]]
    assert corpus.label_words(len) == [[len(word) for word in words]]
    (tmp_path / "words.txt").write_text("keys\ncabinet\n")
    assert corpus.label_words(tmp_path / "words.txt") == [[word in ("keys", "cabinet") for word in words]]
    (tmp_path / "tags.txt").write_text("keys\tnoun\nare\tverb\n")
    assert corpus.label_words(tmp_path / "tags.txt") == [[{"keys": "noun", "are": "verb"}.get(word) for word in words]]
    with pytest.raises(TypeError, match="labelled by"):
        corpus.label_words(3)


@pytest.mark.parametrize("subwords", ["first", "last", "mean", "all"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_values_of_words_are_those_of_their_tokens(tokenizer, subwords, batch_size):
    model, layers = bert(len(tokenizer)), ["bert.encoder.layer.0", "bert.encoder.layer.1.intermediate"]
    corpus = Corpus(TEXTS, tokenizer)
    found = word_values(
        CondAttribution(model, output="logits"), corpus, layers, subwords=subwords, batch_size=batch_size, verbose=False
    )
    hidden = []
    for number, text in enumerate(TEXTS):
        inputs, word_of = corpus[number][0], corpus.word_of_tokens(number)
        kept = {}
        handle = model.get_submodule(layers[1]).register_forward_hook(
            lambda module, args, output, kept=kept: kept.setdefault("output", output)
        )
        model(**{name: tensor[None] for name, tensor in inputs.items() if name != "token_type_ids"})
        handle.remove()
        tensor = kept["output"][0].detach().numpy()
        for word in range(len(text.split())) if subwords != "all" else ():
            own = tensor[word_of == word]
            hidden.append({"first": own[0], "last": own[-1], "mean": own.mean(0)}[subwords])
        hidden += list(tensor) if subwords == "all" else []
    np.testing.assert_allclose(found.values[layers[1]], hidden, atol=1e-5)
    assert found.values[layers[0]].shape == (len(found), 16) and not hooks_of(model)
    expected = sum((corpus.tokens(i) if subwords == "all" else corpus.words(i) for i in range(4)), [])
    assert found.words.tolist() == expected
    if subwords != "all":
        labels = found.labels(corpus.label_words(len))
        assert labels == [len(word) for word in found.words]
        assert len(rank(found.values, labels, "anova")) == 48


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
def test_any_language_model_is_read(name):
    model, layer = language_models()[name]
    model = model.get_encoder() if name == "t5" else model
    layer = layer.removeprefix("encoder.") if name == "t5" else layer
    tokenizer = TOKENIZERS["wordpiece"]()
    corpus = Corpus([text.split()[:3] for text in TEXTS], tokenizer, special_tokens=False)
    for number in range(len(corpus)):  # whose ids the small vocabulary may lack
        corpus._samples[number].ids[:] = [token % 50 for token in corpus._samples[number].ids]
    found = word_values(CondAttribution(model.eval()), corpus, [layer], batch_size=2, verbose=False)
    assert len(found) == sum(len(corpus.words(i)) for i in range(4)) and np.isfinite(found.values[layer]).all()
    inputs = {key: value[None] for key, value in corpus[2][0].items() if key != "token_type_ids"}
    kept = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: kept.append(output))
    model(**inputs)
    handle.remove()
    tensor = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
    last = [np.flatnonzero(corpus.word_of_tokens(2) == word)[-1] for word in range(len(corpus.words(2)))]
    np.testing.assert_allclose(found.values[layer][found.samples == 2], tensor[0, last].detach().numpy(), atol=1e-5)


def test_values_of_heads_and_relevance():
    tokenizer = wordpiece()
    model, corpus = bert(len(tokenizer)), Corpus(TEXTS, tokenizer)
    attribution = CondAttribution(model, output="logits")
    layer = "bert.encoder.layer.0.attention.output.dense:in"
    heads = word_values(attribution, corpus, {layer: HeadConcept(4)}, verbose=False)
    assert heads.values[layer].shape == (sum(len(text.split()) for text in TEXTS), 4)
    found = word_values(
        attribution, corpus, {"bert.encoder.layer.0": ChannelConcept(-1)}, quantity="relevance",
        composite=EpsilonPlus(), y=1, subwords="all", verbose=False, batch_size=2,
    )
    inputs = {name: tensor[None] for name, tensor in corpus[1][0].items()}
    expected = attribution(inputs, [{"y": [1]}], EpsilonPlus(), ["bert.encoder.layer.0"], exclude_parallel=False)
    rows = found.samples == 1
    np.testing.assert_allclose(
        found.values["bert.encoder.layer.0"][rows], expected.relevances["bert.encoder.layer.0"][0], atol=1e-5, rtol=1e-3
    )
    with pytest.raises(ValueError, match="needs a composite"):
        word_values(attribution, corpus, ["bert"], quantity="relevance")
    with pytest.raises(ValueError, match="has 1 positions"):
        word_values(attribution, corpus, ["bert.pooler"], verbose=False)
    with pytest.raises(ValueError, match="subwords is"):
        word_values(attribution, corpus, ["bert"], subwords="middle")
    with pytest.raises(ValueError, match="is it another corpus"):
        heads.labels(corpus.label_words(len)[:2])


def test_a_corpus_can_be_swept(tmp_path):
    tokenizer = wordpiece()
    corpus = Corpus(TEXTS, tokenizer, targets=[0, 1, 2, 0])
    fv = FeatureVisualization(
        CondAttribution(bert(len(tokenizer)), output="logits"), corpus, {"bert.encoder.layer.0": ChannelConcept(-1)},
        path=tmp_path, collate_fn=corpus.collate,
    )
    assert fv.run(EpsilonPlus()).targets.tolist() == [0, 1, 2, 0]


def test_top_words_are_those_of_the_largest_means():
    random = np.random.default_rng(0)
    words = random.choice(list("abcdef"), 200)
    values = random.normal(size=(200, 3))
    values[words == "c", 1] += 2
    scaled = (values[:, 1] - values[:, 1].mean()) / values[:, 1].std()
    expected = sorted(((scaled[words == word].mean(), word) for word in "abcdef"), reverse=True)
    found = top_words(values, words, 1, 4)
    assert [(pytest.approx(top.score), top.word) for top in found] == expected[:4] and found[0].word == "c"
    assert [top.count for top in found] == [(words == top.word).sum() for top in found]
    largest = top_words(values, words, 1, 2, by="maximum")
    assert largest[0].word == words[values[:, 1].argmax()] and largest[0].score == values[:, 1].max()
    assert top_words(np.ones((200, 1)), words, 0)[0].score == 0
    assert not top_words(values, words, 0, least_count=201)
    for arguments, error in (((values, words[1:], 0), ValueError), ((values, words, 3), IndexError)):
        with pytest.raises(error):
            top_words(*arguments)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "vision"])
def test_models_with_random_weights_are_of_the_same_architecture(name):
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 2)) if name == "vision" else (
        language_models()[name][0]
    )
    control, again = (with_random_weights(model) for _ in range(2))
    for (key, own), other, same in zip(model.named_parameters(), control.parameters(), again.parameters()):
        assert own.shape == other.shape and torch.equal(other, same)
        is_constant = own.numel() < 30 or bool((own == own.flatten()[0]).all())
        assert is_constant or not torch.equal(own, other), key
    assert not control.training and type(control) is type(model)


def test_rows_of_a_sweep_have_their_tokens(tmp_path):
    tokenizer = wordpiece()
    corpus = Corpus(TEXTS, tokenizer, targets=[0, 1, 2, 0])
    layer = "bert.encoder.layer.0"
    attribution = CondAttribution(bert(len(tokenizer)), output="logits")
    fv = FeatureVisualization(
        attribution, corpus, {layer: ChannelConcept(-1)}, path=tmp_path, collate_fn=corpus.collate
    )
    store = fv.run(EpsilonPlus(), batch_size=3, rows="positions")
    rows = store.rows("activation")
    assert corpus.of_rows(rows, "tokens").tolist() == sum(map(corpus.tokens, range(4)), [])
    words = [corpus.words(i)[word] if word >= 0 else "" for i in range(4) for word in corpus.word_of_tokens(i)]
    assert corpus.of_rows(rows).tolist() == words
    found = word_values(attribution, corpus, {layer: ChannelConcept(-1)}, subwords="all", verbose=False)
    np.testing.assert_allclose(store.values(layer, "activation")[:], found.values[layer], atol=1e-5)
    with pytest.raises(ValueError, match="has no token"):
        Corpus(TEXTS[:2], tokenizer).of_rows(rows)
