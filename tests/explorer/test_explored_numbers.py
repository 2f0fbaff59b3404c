"""The explorer's answers are those of the store and of the model, restated."""
import json
import shutil

import numpy as np
import pytest
import torch
from served import LAYER, SAMPLES, TEXT_LAYERS, ask_for
from torch.nn.functional import softmax

from crp.analysis import Patterns
from crp.attribution import Contrast
from crp.explorer import portraits
from crp.explorer.concept_pages import concept_page
from crp.explorer.live.answered import read_answer
from crp.explorer.live.writing import changed_words
from crp.explorer.source import Source
from crp.neurons import intervene
from crp.trust import TrustReport

NUMBER = 2
CONCEPT = 12
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(with_model):
    return f"/api/{with_model.key}"


@pytest.fixture(scope="module")
def document(answers, base):
    def ask(path):
        found = answers(f"{base}/{path}")
        assert found.status == 200, found.content
        return json.loads(found.content)

    return ask


@pytest.fixture(scope="module")
def floats(answers, base):
    def ask(path, kind="<f4"):
        found = answers(f"{base}/{path}")
        assert found.status == 200, found.content
        return np.frombuffer(found.content, kind).reshape([int(size) for size in found.shape.split(",")])

    return ask


@pytest.fixture(scope="module")
def both(answers, base):
    def ask(path):
        found = answers(f"{base}/{path}")
        assert found.status == 200, found.content
        return read_answer(found.content)

    return ask


@pytest.mark.parametrize("quantity", ["relevance", "activation"])
def test_columns_of_a_layer(with_model, floats, document, quantity):
    names = [column["name"] for column in document(f"layers/{NUMBER}?quantity={quantity}")["columns"]]
    found = dict(zip(names, floats(f"layers/{NUMBER}/columns?quantity={quantity}")))
    values = np.asarray(with_model.store.values(LAYER, quantity), np.float64)
    targets = with_model.store.targets_of_rows(quantity)
    shares = np.abs(values) / np.maximum(np.abs(values).sum(1, keepdims=True), 1e-30)
    np.testing.assert_allclose(found["share"], shares.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found["maximum"], values.max(0), rtol=1e-6)
    np.testing.assert_allclose(found["mean"], values.mean(0), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found["zeros"], (values == 0).mean(0), rtol=1e-6)
    of_classes = np.stack([values[targets == target].mean(0) for target in range(10)])
    amounts = np.abs(of_classes / np.abs(of_classes).sum(1, keepdims=True))
    alive = amounts.sum(0) > 0
    np.testing.assert_array_equal(found["class"][alive], amounts.argmax(0)[alive])
    assert (found["class"][~alive] == -1).all()


def test_a_concept(with_model, document, floats):
    store = with_model.store
    values = np.asarray(store.values(LAYER), np.float64)
    page = document(f"layers/{NUMBER}/concepts/{CONCEPT}")
    shares = (np.abs(values) / np.abs(values).sum(1, keepdims=True)).mean(0)
    assert page["rank"] == 1 + (shares > shares[CONCEPT]).sum()
    assert page["histogram"]["zeros"] == pytest.approx((values[:, CONCEPT] == 0).mean())
    assert sum(page["histogram"]["counts"]) == (values[:, CONCEPT] != 0).sum()
    top = store.top(LAYER, CONCEPT, k=8)
    groups = {group["name"]: group for group in page["references"]}
    assert groups["strongest"]["samples"] == top.samples.tolist()
    normalised = values[:, CONCEPT] / np.abs(values).sum(1)
    np.testing.assert_allclose(sorted(groups["lowest"]["values"]), np.sort(normalised)[:8], rtol=1e-4)
    middle = groups["middle of those that are not zero"]["values"]
    active = normalised[normalised != 0]
    assert (active > max(middle)).sum() == pytest.approx((active < min(middle)).sum(), abs=2)
    np.testing.assert_allclose(floats(f"layers/{NUMBER}/concepts/{CONCEPT}/values"), values[:, CONCEPT], rtol=1e-6)
    report = TrustReport.load(store, LAYER)
    place = report["concept"].tolist().index(CONCEPT)
    mean, lower, upper, control = (report[f"effect{end}"][place] for end in ("", "_lower", "_upper", "_control"))
    assert page["trust"] == report.sentences[place]
    assert page["effect"] == pytest.approx({
        "mean": mean, "lower": lower, "upper": upper, "control": control,
        "is_clear": lower > max(0, control) or upper < min(0, control),
    })


def test_concepts_that_are_like_one(with_model, document):
    found = document(f"layers/{NUMBER}/concepts/{CONCEPT}/neighbours")
    with np.errstate(invalid="ignore", divide="ignore"):
        correlations = np.corrcoef(np.asarray(with_model.store.values(LAYER, "activation")).T)[CONCEPT]
    correlations[CONCEPT] = -1
    best = int(np.nan_to_num(correlations, nan=-1).argmax())
    assert found["by_activation"][0]["concept"] == best
    assert found["by_activation"][0]["correlation"] == pytest.approx(correlations[best], abs=1e-4)


def test_a_sample_as_the_store_knows_it(with_model, document):
    page = document("samples/7")
    row = with_model.store.rows()[7]
    values = np.asarray(with_model.store.values(LAYER)[7], np.float64)
    assert page["targets"] == [row["target"]] and page["prediction"] == row["prediction"]
    concepts = page["layers"][NUMBER]["concepts"]
    order = np.argsort(-np.abs(values), kind="stable")
    assert [concept["concept"] for concept in concepts][:5] == order[:5].tolist()
    assert concepts[0]["share"] == pytest.approx(values[order[0]] / np.abs(values).sum(), rel=1e-5)


def test_references_are_those_of_the_class_that_is_asked_for(with_model, floats):
    found = floats(f"layers/{NUMBER}/references?concepts=3,{CONCEPT}&k=5&target=4", "<i4")
    for row, concept in zip(found, (3, CONCEPT)):
        assert row.tolist() == with_model.store.top(LAYER, concept, k=5, target=4).samples.tolist()


@pytest.mark.parametrize("query, y", [
    ("", None), ("?target=3", [3]), ("?target=3&against=8", Contrast(3, 8)),
    (f"?target=3&layer={NUMBER}&concept={CONCEPT}", [3]),
])
def test_heatmaps_and_concepts_are_those_of_the_attribution(digit_sweep, both, query, y):
    fv, composite = digit_sweep
    data = fv.get_data_sample(7)[0]
    document, numbers = both(f"inputs/7/explained{query}")
    y = [int(fv.attribution.model(data).argmax())] if y is None else y
    condition = {"y": y} | ({LAYER: [CONCEPT]} if "concept=" in query else {})
    expected = fv.attribution(data, [condition], composite, [LAYER], exclude_parallel=False)
    np.testing.assert_allclose(numbers, expected.heatmap[0].flatten(), rtol=1e-4, atol=1e-6)
    if "concept=" not in query:
        shares = fv.layer_map[LAYER].attribute(expected.relevances[LAYER])[0]
        first = document["layers"][NUMBER]["concepts"][0]
        assert first["share"] == pytest.approx(float(shares[first["concept"]]), rel=1e-4)
    probabilities = softmax(fv.attribution.model(data).detach().double(), 1)[0]
    for output in document["outputs"]:
        assert output["probability"] == pytest.approx(float(probabilities[output["target"]]), rel=1e-3, abs=1e-6)


def test_answers_with_units_set(digit_sweep, both):
    fv, _ = digit_sweep
    data = fv.get_data_sample(7)[0]
    document, _ = both(f"inputs/7/manipulated?units={NUMBER}:{CONCEPT}:set:2.5,1:3:scale:0")
    with intervene(fv.attribution.model, {LAYER: {CONCEPT: 2.5}, "relu2": {3: 0.}}), torch.no_grad():
        expected = fv.attribution.model(data)[0]
    for output in document["after"]:
        assert output["value"] == pytest.approx(float(expected[output["target"]]), rel=1e-4, abs=1e-5)
    assert [output["target"] for output in document["after"]] == [output["target"] for output in document["before"]]


def test_patterns_and_their_units(with_model, floats, document):
    patterns = Patterns.load(with_model.store, layer=LAYER, quantity="relevance")
    page = document(f"layers/{NUMBER}/patterns?quantity=relevance")
    assert page["sizes"] == patterns.sizes.tolist() and page["noise"] == (patterns.labels < 0).sum()
    assert page["persistence"] == sorted(page["persistence"], reverse=True)
    labels, probability = floats(f"layers/{NUMBER}/patterns/rows?quantity=relevance")
    np.testing.assert_array_equal(labels, patterns.labels)
    np.testing.assert_allclose(probability, patterns.probability, rtol=1e-6)
    boxes = floats(f"layers/{NUMBER}/patterns/boxes?quantity=relevance&pattern=1")
    own = np.asarray(with_model.store.values(LAYER))[patterns.labels == 1]
    np.testing.assert_allclose(boxes[2], np.median(own, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(boxes[5], own.mean(0), rtol=1e-4, atol=1e-6)


def test_an_input_is_assigned_to_the_pattern_that_it_is_in(with_model, document):
    patterns = Patterns.load(with_model.store, layer=LAYER, quantity="relevance")
    right = np.flatnonzero(with_model.store.predictions == with_model.store.targets)  # which are explained alike
    firm = right[np.argsort(-patterns.probability[right], kind="stable")[:3]]
    for sample in firm.tolist():
        found = document(f"inputs/{sample}/layers/{NUMBER}/pattern?quantity=relevance")
        assert found["pattern"] == patterns.labels[sample]


def test_where_a_concept_comes_from_and_goes(document):
    found = document("inputs/7/layers/1/concepts/3/graph")
    node = found["nodes"][0]
    assert (node["layer"], node["concept"]) == (1, 3)
    assert {found["nodes"][edge["sink"]]["layer"] for edge in found["edges"]} >= {1, 2}
    parts = sum(abs(edge["share"]) for edge in found["edges"] if edge["sink"] == 0)
    assert found["remainders"][0] == pytest.approx(1 - parts, abs=1e-6)


def test_a_work_that_fails_says_why_and_can_be_tried_again(with_model):
    ask = ask_for([with_model])
    answer = ask(f"/api/{with_model.key}/inputs/7/explained?target=99")
    assert answer.status == 404 and b"no output 99" in answer.content


def test_what_needs_a_model_is_refused_in_words_without_one(store_alone):
    ask, base = ask_for([store_alone]), f"/api/{store_alone.key}"
    for path in (
        "inputs/399/explained", "layers/2/sprite?concepts=31&k=7&kind=heatmap", "continuation?text=a&units=0:0:set:0",
    ):
        answer = ask(f"{base}/{path}")
        assert answer.status == 404 and b"crp explore SPEC" in answer.content
    assert ask(f"{base}/layers/2/concepts/{CONCEPT}").status == 200


def test_texts(sentence_sweep):
    source = Source.of(*sentence_sweep)
    ask, base = ask_for([source]), f"/api/{source.key}"
    corpus, store = source.corpus, source.store
    page = json.loads(ask(f"{base}/texts?first=3&count=2").content)
    assert [text["tokens"] for text in page["texts"]] == [corpus.tokens(3), corpus.tokens(4)]
    answer = ask(f"{base}/texts/3/layers/0/values?concepts=5,7&quantity=activation")
    rows = store.rows("activation")
    expected = np.asarray(store.values(TEXT_LAYERS[0], "activation"))[rows["sample"] == 3][:, [5, 7]]
    np.testing.assert_allclose(np.frombuffer(answer.content, "<f4").reshape(2, -1), expected.T, rtol=1e-6)
    top = store.top(TEXT_LAYERS[0], 5, "activation", 3)
    snippets = json.loads(ask(f"{base}/layers/0/snippets?concepts=5&quantity=activation&k=3").content)["concepts"][0]
    for snippet, sample, position in zip(snippets, top.samples, top.positions):
        assert snippet["tokens"][snippet["at"]] == corpus.tokens(int(sample))[int(position)]
    words = json.loads(ask(f"{base}/layers/0/concepts/5/words?quantity=activation").content)
    assert words["words"][0]["score"] >= words["words"][-1]["score"] and len(words["words"]) == 20
    text = "the old keys near the green dog"
    query = f"text={text.replace(' ', '%20')}&units=0:5:scale:0&tokens=2"
    found = json.loads(ask(f"{base}/continuation?{query}").content)
    with torch.no_grad():
        inputs = torch.tensor([corpus.tokenizer(text)["input_ids"]])
        logits = sentence_sweep[0].attribution.model(inputs).logits[0, -1]
    assert found["before"][0]["target"] == int(logits.argmax()) and len(found["text_before"]) == 2


def test_words_that_changed_are_found_by_alignment():
    assert changed_words("the dog is here".split(), "the old dog was here".split()) == [False, True, False, True, False]
    assert changed_words([], ["a"]) == [True]


def test_the_audit_is_that_of_the_attribution(digit_sweep, document):
    fv, composite = digit_sweep
    found = document("audit")
    samples = np.linspace(0, len(fv.dataset) - 1, 8).round().astype(int)
    data = torch.cat([fv.get_data_sample(int(sample))[0] for sample in samples])
    expected = fv.attribution.audit(data, composite)
    assert found["total"] == pytest.approx(expected.total) and found["accounted"] == pytest.approx(expected.accounted)
    assert found["samples"] == 8 and len(found["faults"]) == len(expected.faults)


def test_the_pattern_of_a_concept_is_where_its_mean_is_most_above_that_of_all(with_model, document, floats):
    names = [column["name"] for column in document(f"layers/{NUMBER}")["columns"]]
    found = floats(f"layers/{NUMBER}/columns")[names.index("pattern")]
    patterns = Patterns.load(with_model.store, layer=LAYER, quantity="relevance")
    values = np.asarray(with_model.store.values(LAYER), np.float64)
    rises = np.stack([values[patterns.labels == i].mean(0) - values.mean(0) for i in range(len(patterns))])
    alive = rises.max(0) > 0
    np.testing.assert_array_equal(found[alive], rises.argmax(0)[alive])


def test_tokens_have_the_relevance_of_the_attribution(sentence_sweep):
    fv, composite = sentence_sweep
    source = Source.of(fv, composite)
    document, numbers = read_answer(ask_for([source])(f"/api/{source.key}/inputs/3/explained?target=2").content)
    data = fv.get_data_sample(3)[0]
    expected = fv.attribution(data, [{"y": [2]}], composite, exclude_parallel=False).heatmap["input_ids"][0]
    np.testing.assert_allclose(numbers, expected.flatten(), rtol=1e-4, atol=1e-7)
    assert (document["height"], document["width"]) == (1, len(source.corpus.tokens(3)))


def test_portraits_of_a_layer_are_those_of_its_concepts(digit_sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(portraits, "_CHUNK_BYTES", 4 * SAMPLES * 5)  # so that concepts come in several parts
    path = tmp_path / "store"
    shutil.copytree(digit_sweep[0].path, path)
    shutil.rmtree(path / "explorer", ignore_errors=True)
    before, after = Source.of(path), Source.of(path)
    alone = [concept_page(before, NUMBER, "relevance", concept) for concept in range(32)]
    portraits.keep_portraits(after.store, after.kept, LAYER, "relevance")
    assert portraits.kept_portraits(after.store, after.kept, LAYER, "relevance") is not None
    for concept, page in enumerate(alone):
        found = concept_page(after, NUMBER, "relevance", concept)
        assert found.model_dump() == page.model_dump()
