"""The pages of the explorer do what a person at a browser asks for."""
import io
import re
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from served import LAYER, TEXT_LAYERS, digits, serving

from crp.analysis import Patterns, class_shares
from crp.explorer.documents import NoteChange
from crp.explorer.source import Source
from crp.neurons import Ranking
from crp.trust import TrustReport

sync_api = pytest.importorskip("playwright.sync_api")
from browsing import SIZE, choose, numbers, painted, part, press, settle, show, tab_to, watched, write, written  # noqa: E402
from playwright.sync_api import expect  # noqa: E402

pytestmark = pytest.mark.slow
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
CONCEPT = f"#concept?concept=12&layer={LAYER}"
SAMPLE = f"#sample?input=5&layer={LAYER}"
PATTERNS = f"#patterns?layer={LAYER}&quantity=relevance"
PATTERN = f"{PATTERNS}&pattern=0"
NEURONS = f"#neurons?layer={LAYER}"
DIGIT_VIEWS = ["#model", f"#concepts?layer={LAYER}", CONCEPT, f"#samples?layer={LAYER}", f"{SAMPLE}&concept=20",
               f"{SAMPLE}&beside=7", PATTERN, PATTERNS, f"#maps?layer={LAYER}", f"{NEURONS}&units=2:12:set:0"]
TEXT_VIEWS = ["#model", "#concepts", "#concept?concept=32", "#text?text=the+old+kings", "#sample?input=3&position=2"]


@pytest.fixture
def page(browser):
    """A page in which nothing goes wrong unseen, and that asks nobody but its server."""
    context, faults = browser.new_context(viewport=SIZE), []
    yield watched(context, faults)
    context.close()
    assert faults == []


@pytest.fixture(scope="module")
def text_address(sentence_sweep):
    with serving([Source.of(*sentence_sweep)]) as found:
        yield found


@pytest.fixture(scope="module")
def own_sweep(tmp_path_factory):
    """A server of a store in which tests may keep something."""
    fv, composite = digits(tmp_path_factory.mktemp("own") / "store")
    source = Source.of(fv, composite)
    with serving([source]) as address:
        yield SimpleNamespace(address=address, source=source, store=source.store, model=fv.attribution.model)


@pytest.fixture
def own(own_sweep):
    """The same, without notes of other tests."""
    forget(own_sweep.source.notebook)
    yield own_sweep
    forget(own_sweep.source.notebook)


def forget(notebook):
    """Take all pins and notes away."""
    notes = notebook.read()
    for on in {*notes.pins, *(note.on for note in notes.notes)}:
        notebook.change(NoteChange(on=on, is_pinned=False, text="", name=""))


@pytest.fixture(scope="module")
def patterns(digit_sweep):
    return Patterns.load(Source.of(*digit_sweep).store, layer=LAYER, quantity="relevance")


def heading(page, name, level=1):
    expect(page.get_by_role("heading", name=name, level=level, exact=True)).to_be_visible()


def cards(page):
    return page.get_by_role("article")


def first_concept(page):
    return page.get_by_role("list", name="concepts").get_by_role("link", name=re.compile(r"^concept \d+$")).first


# Walks


@pytest.mark.parametrize("place, title, parts", [
    ("#model", "What has the model learned?", ["Layers", "Can relu3 be trusted?", "Classes"]),
    (CONCEPT, "concept 12", ["Samples that show it", "For which classes", "What happens without it", "How strong it is",
                             "Concepts like it", "What it is made of, and where it goes", "Trust report"]),
    (f"#samples?layer={LAYER}", "Samples", ["A map of all samples", "Samples"]),
    (f"{SAMPLE}&concept=20", "Sample 5", ["The sample", "Why", "Concepts of relu3", "Where concept 20 is",
                                          "Concepts in a region"]),
    (PATTERNS, "Patterns of relu3", ["Labels and patterns", "Pattern 0"]),
    (f"#maps?layer={LAYER}", "Maps of relu3", ["relevance in 0", "compared with the average class", "Response map"]),
    (NEURONS, "Neurons of relu3", ["Rankings", "Without them", "With other values"]),
])
def test_walk_through_the_views_of_digits(page, address, place, title, parts):
    show(page, address, place)
    heading(page, title)
    for name in parts:
        heading(page, name, level=2)
    expect(page).to_have_title(f"{title} · crp explorer")
    assert page.locator(".trouble").count() == 0


@pytest.mark.parametrize("kind", ["whole", "heatmap", "lit", "crop"])
def test_walk_through_the_pictures_of_concepts(page, address, kind):
    show(page, address, f"#concepts?layer={LAYER}")
    press(page, kind)
    heading(page, "Concepts of relu3")
    expect(page.get_by_role("button", name=kind, exact=True)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("link", name=re.compile("number 1 of concept")).first).to_have_css(
        "background-image", re.compile("^url"), timeout=20_000)


def test_navigation_leads_to_every_view(page, address):
    show(page, address, "#model")
    for name, title in {"Concepts": "Concepts of relu3", "Samples": "Samples", "Patterns": "Patterns of relu3",
                        "Maps": "Maps of relu3", "Neurons": "Neurons of relu3", "Model": "What has the model"}.items():
        page.get_by_role("navigation").get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text(title)
        settle(page)
    expect(page.get_by_role("navigation").get_by_role("link", name="Text", exact=True)).to_have_count(0)


def test_walk_through_the_views_of_sentences(page, text_address):
    show(page, text_address, "#model")
    expect(page.get_by_role("heading", level=1)).to_contain_text("What has the model learned?")
    page.get_by_role("navigation").get_by_role("link", name="Concepts").click()
    heading(page, f"Concepts of {TEXT_LAYERS[-1]}")
    first_concept(page).click()
    for name in ("Samples that show it", "For which classes", "Words", "What it is made of, and where it goes"):
        heading(page, name, level=2)
    settle(page)
    page.get_by_role("navigation").get_by_role("link", name="Text", exact=True).click()
    heading(page, "Texts")
    page.get_by_role("link", name="text 3", exact=True).click()
    heading(page, "Sample 3")
    settle(page)
    page.get_by_role("group", name="text 3").get_by_role("button", name="child").click()
    expect(page.get_by_text("at token 2")).to_be_visible()
    settle(page)
    assert page.locator(".trouble").count() == 0


def test_a_typed_text_is_gone_on_with(page, text_address):
    show(page, text_address, "#text")
    write(page, "a text to go on with", "the old kings")
    continued = part(page, "What the model writes")
    expect(continued.get_by_role("heading", name="as it is")).to_be_visible()
    expect(continued.get_by_role("heading", name="with concepts set")).to_be_visible()
    assert continued.locator("[aria-label='next token before'] [title]").count() == 6
    choose(page, "chosen concepts", "five times")
    expect(continued.get_by_role("heading", name="with concepts set")).to_be_visible()
    assert "factor=5" in page.url and "text=the+old+kings" in page.url


# Addresses


def bar(label, place=0):
    return lambda page: page.get_by_role("group", name=label, exact=True).get_by_role("button").nth(place).click()


def pressing(name):
    return lambda page: press(page, name)


def choosing(label, option):
    return lambda page: choose(page, label, option)


def writing(label, text):
    return lambda page: write(page, label, text)


CHOICES = {
    "model": ("#model", [pressing("activation")]),
    "concepts": (f"#concepts?layer={LAYER}", [
        pressing("heatmap"), choosing("sort by", "maximum"), choosing("show", "not dead"),
        lambda page: page.get_by_role("searchbox").fill("9"), choosing("samples of", "3")]),
    "concept": (CONCEPT, [pressing("half"), pressing("activation")]),
    "concept set": (CONCEPT, [pressing("activation"), pressing("relevance"), writing("set it to", "1.5"),
                              pressing("activation")]),
    "samples": (f"#samples?layer={LAYER}", [pressing("relevance"), choosing("label", "3"), pressing("prediction"),
                                           choosing("the prediction is", "right")]),
    "sample": (SAMPLE, [bar("concepts of relu3", 2), choosing("explain", "0"), choosing("and not", "6"),
                        writing("beside sample", "7"), pressing("activation")]),
    "patterns": (PATTERNS, [choosing("label", "3"), choosing("label", "5"), choosing("cards", "wide"),
                            choosing("units", "all"), choosing("the prediction is", "right")]),
    "maps": (f"#maps?layer={LAYER}", [lambda page: page.get_by_role("checkbox", name="relu1").uncheck(),
                                      writing("sample", "9"), choosing("class", "4"), pressing("activation")]),
    "neurons": (NEURONS, [choosing("add a ranking by", "variance"), choosing("for", "3"), writing("unit to add", "12"),
                          pressing("Add"), pressing("set relu3 12 to its max"), writing("sample", "8"),
                          pressing("Keep this set as a row"), pressing("relevance")]),
    "text": ("#text", [pressing("activation"), writing(f"concepts of {TEXT_LAYERS[-1]}", "32,3"),
                       writing("a text to go on with", "the old kings"), choosing("chosen concepts", "five times"),
                       pressing("next")]),
    "sample of text": ("#sample?input=3", [
        pressing("activation"), bar("text 3", 2), bar(f"concepts of {TEXT_LAYERS[-1]}", 1), pressing("relevance")]),
}


@pytest.mark.parametrize("view", CHOICES)
def test_an_address_holds_all_that_was_chosen_and_back_leads_back(page, address, text_address, view):
    place, acts = CHOICES[view]
    own = text_address if "text" in view else address
    before = show(page, own, place)
    for act in acts[:-1]:
        act(page)
        page.wait_for_timeout(300)  # until a typed word is searched for, or a slider is heeded
        before = settle(page)
    acts[-1](page)
    after = settle(page)
    assert after != before
    other = page.context.new_page()
    other.goto(page.url)
    settled = settle(other)
    assert settled == after
    other.close()
    page.go_back()
    page.wait_for_timeout(200)
    assert settle(page) == before
    page.go_forward()
    page.wait_for_timeout(200)
    assert settle(page) == after


def test_layer_quantity_and_selected_samples_go_into_the_address(page, address):
    show(page, address, PATTERN)
    press(page, "Select its samples")
    assert re.search(r"samples=\d+", page.url) and f"layer={LAYER}" in page.url and "quantity=relevance" in page.url
    page.get_by_role("combobox", name="layer", exact=True).select_option("relu2")
    settle(page)
    heading(page, "Patterns of relu2")
    assert "layer=relu2" in page.url


def test_an_address_of_another_store_says_so(page, address):
    show(page, address, "#model?store=0123456789abcdef")
    heading(page, "That store is not here")
    page.get_by_role("link", name=re.compile("^Go to ")).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("What has the model learned?")


# By keyboard alone


def test_keys_lead_past_the_navigation(page, address):
    show(page, address, "#model")
    skip = page.get_by_role("link", name="Skip to the page")
    tab_to(page, skip, "Shift+Tab")
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_be_focused()


def test_keys_lead_to_a_concept(page, address):
    show(page, address, "#model")
    tab_to(page, page.get_by_role("navigation").get_by_role("link", name="Concepts"), "Shift+Tab")
    page.keyboard.press("Enter")
    heading(page, "Concepts of relu3")
    settle(page)
    tab_to(page, page.get_by_role("group", name="quantity").get_by_role("button", name="activation"))
    page.keyboard.press("Space")
    settle(page)
    chosen = page.get_by_role("group", name="quantity").get_by_role("button", name="activation")
    expect(chosen).to_have_attribute("aria-pressed", "true")
    expect(chosen).to_be_focused()
    concept = first_concept(page)
    name = concept.inner_text()
    tab_to(page, concept)
    page.keyboard.press("Enter")
    heading(page, name)
    expect(page.get_by_role("heading", level=1)).to_be_focused()


def test_keys_go_down_the_whole_list_of_concepts(page, address):
    show(page, address, f"#concepts?layer={LAYER}&sort=id")
    last = page.get_by_role("link", name="concept 31", exact=True)
    for _ in range(400):
        page.keyboard.press("Tab")
        if last.count() and last.evaluate("one => one === document.activeElement"):
            break
    expect(last).to_be_focused()
    page.keyboard.press("Enter")
    heading(page, "concept 31")


def test_keys_move_on_a_map(page, address):
    show(page, address, f"#maps?layer={LAYER}")
    dots = page.get_by_role("group", name="map of relu3 for 0").get_by_role("link")
    tab_to(page, dots.first)
    here = page.evaluate("document.activeElement.getAttribute('aria-label')")
    for key in ("ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
        there = page.evaluate("document.activeElement.getAttribute('aria-label')")
        if there != here:
            break
    assert there != here
    expect(page.get_by_text(there, exact=True)).to_be_visible()
    page.keyboard.press("Enter")
    heading(page, re.search(r"concept \d+", there).group())


def test_keys_lay_out_the_samples_and_move_on_their_map(page, own):
    show(page, own.address, f"#samples?layer={LAYER}")
    canvas = page.get_by_role("application")
    if not canvas.count():
        tab_to(page, page.get_by_role("button", name="Lay out all samples"))
        page.keyboard.press("Enter")
    expect(canvas).to_be_visible(timeout=60_000)
    settle(page)
    tab_to(page, canvas)
    for key in ("+", "+", "ArrowRight"):
        page.keyboard.press(key)
    expect(page).to_have_url(re.compile("at="))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(r"^Sample \d+$"))
    settle(page)


def test_keys_mark_a_region(page, address):
    show(page, address, SAMPLE)
    tab_to(page, page.get_by_role("img", name="mark a region"))
    for key in ("ArrowRight", "ArrowDown", "Shift+ArrowLeft", "Enter"):
        page.keyboard.press(key)
    expect(page.get_by_role("group", name="concepts in the region").get_by_role("button").first).to_be_visible()
    assert re.search(r"region=0\.300%2C0\.300%2C0\.750%2C0\.800", page.url)
    page.keyboard.press("Escape")
    expect(page.get_by_text("No region is marked.")).to_be_visible()
    assert "region" not in page.url


def test_keys_move_a_slider(page, address):
    show(page, address, f"{NEURONS}&units=2:12:set:0")
    before = part(page, "With other values").inner_text()
    slider = page.get_by_role("slider", name="relu3 12")
    tab_to(page, slider)
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_timeout(300)
    settle(page)
    assert float(slider.input_value()) > 0 and "set%3A0&" not in f"{page.url}&"
    assert part(page, "With other values").inner_text() != before
    expect(slider).to_be_focused()


# What the older viewers could do


def test_tiles_of_layers_open_their_concepts(page, address):
    show(page, address, "#model")
    for name in ("relu1", "relu2", "relu3"):
        page.get_by_role("link", name=name, exact=True).click()
        heading(page, f"Concepts of {name}")
        page.go_back()
        expect(page.get_by_role("heading", level=1)).to_contain_text("What has the model learned?")


def filled(page):
    """The circles of the chart of labels and patterns that stand for some samples."""
    chart = page.get_by_role("group", name="how many samples of a label each pattern holds")
    return chart.get_by_role("button", name=re.compile(r": [1-9]\d*$"))


def test_a_circle_of_a_label_and_a_pattern_filters(page, address):
    show(page, address, PATTERNS)
    circle = filled(page).first
    label, pattern, _ = numbers(circle.get_attribute("aria-label"))
    circle.click()
    settle(page)
    expect(page.get_by_role("button", name=f"remove the label {label:g}")).to_be_visible()
    expect(cards(page)).to_have_count(1)
    heading(page, f"Pattern {pattern:g}", level=2)


def test_with_shift_one_more_label_is_chosen(page, address):
    show(page, address, PATTERNS)
    names = filled(page).evaluate_all("found => found.map((one) => one.getAttribute('aria-label'))")
    labels = sorted({int(numbers(name)[0]) for name in names})[:2]
    for label in labels:
        page.get_by_role("button", name=re.compile(rf"^{label}, \d+: \d")).first.click(modifiers=["Shift"])
        settle(page)
    for label in labels:
        expect(page.get_by_role("button", name=f"remove the label {label}")).to_be_visible()
    assert "pattern=" not in page.url


def test_a_card_tells_number_and_size(page, address, patterns):
    show(page, address, PATTERNS)
    expect(cards(page)).to_have_count(len(patterns))
    for number, (card, size) in enumerate(zip(cards(page).all(), patterns.sizes.tolist())):
        expect(card.get_by_role("heading", name=f"Pattern {number}", exact=True)).to_be_visible()
        expect(card).to_contain_text(f"{size} samples; persistence")


def test_patterns_are_sorted_by_persistence(page, address):
    show(page, address, PATTERNS)
    found = [numbers(text)[-1] for text in page.get_by_text(re.compile(r"persistence [\d.]+$")).all_inner_texts()]
    assert len(found) > 2 and found == sorted(found, reverse=True)


def test_noise_is_no_pattern(page, address, patterns):
    show(page, address, PATTERNS)
    noise = (patterns.labels < 0).mean()
    assert noise > 0
    told = f"{len(patterns)} patterns of 400 samples, of which {int(1000 * noise + .5) / 10}% are in none"
    expect(page.get_by_text(told)).to_be_visible()
    expect(page.get_by_text("Pattern -1")).to_have_count(0)


def test_a_card_shows_the_average_picture(page, address):
    show(page, address, PATTERN)
    average = page.get_by_role("img", name="the average of pattern 0")
    expect(average).to_be_visible()
    expect(average).to_have_js_property("complete", True)
    assert average.evaluate("one => one.naturalWidth") > 0


def test_a_card_shows_the_most_and_the_least_stable_samples(page, address, patterns):
    show(page, address, PATTERNS)
    names = cards(page).first.get_by_role("link", name=re.compile("^sample ")).evaluate_all(
        "found => found.map((one) => one.getAttribute('aria-label'))")
    found = [numbers(name)[1] for name in names]
    most, least = found[:6], found[6:]
    probability = sorted((100 * patterns.probability[patterns.labels == 0]).tolist())
    assert len(least) == 6 and most == sorted(most, reverse=True) and least == sorted(least)
    assert most == pytest.approx(probability[::-1][:6], abs=.06) and least == pytest.approx(probability[:6], abs=.06)


def test_a_card_shows_a_histogram_of_probabilities(page, address, patterns):
    show(page, address, PATTERN)
    chart = page.get_by_role("img", name="probabilities of pattern 0")
    counts = [numbers(text)[-1] for text in chart.locator("rect title").all_text_contents()]
    assert sum(counts) == patterns.sizes[0]


@pytest.mark.parametrize("kind", ["label", "prediction"])
def test_bars_of_a_card_filter_and_keep_the_total(page, address, kind):
    show(page, address, PATTERNS)
    card = cards(page).first
    before = card.get_by_role("group", name=f"{kind}s").get_by_role("button").all()
    name, count, total = numbers(before[0].get_attribute("aria-label"))
    assert count == total
    card.get_by_role("group", name=f"{kind}s").get_by_role("button").first.click()
    settle(page)
    expect(page.get_by_role("button", name=f"remove the {kind} {name:g}")).to_be_visible()
    expect(card.get_by_role("group", name=f"{kind}s").get_by_role("button").first).to_have_attribute(
        "aria-pressed", "true")


def test_a_filtered_count_stands_before_the_total(page, address, patterns):
    show(page, address, PATTERN)
    choose(page, "the prediction is", "right")
    right = page.get_by_role("group", name="predictions").get_by_role("button")
    told = [numbers(one.get_attribute("aria-label")) for one in right.all()]
    assert sum(total for *_, total in told) == patterns.sizes[0]
    assert sum(count for _, count, _ in told) < patterns.sizes[0] or len(told) == 1
    assert all(count <= total for _, count, total in told)


def test_a_card_shows_box_plots_of_units_without_and_with_near_zero_ones(page, address):
    show(page, address, PATTERNS)
    card = cards(page).first
    card.get_by_text("what its units do").click()
    boxes = card.get_by_role("group", name="values of units").get_by_role("button")
    expect(boxes.first).to_be_visible()
    told = card.get_by_text(re.compile(r"^\d+ units? of 32: "))
    some = numbers(told.inner_text())[0]
    assert boxes.count() == some
    assert re.search("pattern 0: lower .* median .* upper .* mean", boxes.first.get_attribute("aria-label"))
    choose(page, "units", "all")
    card.get_by_text("what its units do").click()
    expect(boxes.first).to_be_visible()
    assert numbers(told.inner_text())[0] > some
    unit = numbers(boxes.first.get_attribute("aria-label"))[0]
    boxes.first.click()
    heading(page, f"concept {unit:g}")
    settle(page)


def test_cards_are_compact_or_wide(page, address):
    show(page, address, PATTERNS)
    samples = cards(page).first.get_by_role("link", name=re.compile("^sample "))
    narrow, few = cards(page).first.bounding_box()["width"], samples.count()
    choose(page, "cards", "wide")
    assert cards(page).first.bounding_box()["width"] > 1.5 * narrow and samples.count() > few
    choose(page, "cards", "compact")
    assert cards(page).first.bounding_box()["width"] == narrow and samples.count() == few


def test_a_click_opens_a_sample(page, address):
    show(page, address, PATTERNS)
    sample = cards(page).first.get_by_role("link", name=re.compile("^sample ")).first
    number = numbers(sample.get_attribute("aria-label"))[0]
    sample.click()
    heading(page, f"Sample {number:g}")
    settle(page)


def test_samples_of_which_the_prediction_is_wrong_are_marked(page, address):
    show(page, address, f"#samples?layer={LAYER}")
    samples = page.get_by_role("link", name=re.compile(r"^sample \d+, "))
    colours = "found => [...new Set(found.map((one) => getComputedStyle(one).borderColor))]"
    choose(page, "the prediction is", "wrong")
    wrong = samples.evaluate_all(colours)
    choose(page, "the prediction is", "right")
    right = samples.evaluate_all(colours)
    assert len(wrong) == len(right) == 1 and wrong != right


def test_selected_samples_are_marked_on_cards(page, address):
    show(page, address, PATTERN)
    sample = cards(page).get_by_role("link", name=re.compile("^sample ")).first
    assert "✓" not in sample.locator(".tile-caption").evaluate("one => getComputedStyle(one, '::before').content")
    press(page, "Select its samples")
    assert "✓" in sample.locator(".tile-caption").evaluate("one => getComputedStyle(one, '::before').content")


def test_a_sample_tells_label_prediction_and_probability_where_it_is_pointed_at(page, address, patterns, with_model):
    show(page, address, PATTERN)
    rows = with_model.rows("relevance")
    for sample in cards(page).get_by_role("link", name=re.compile("^sample ")).all()[:3]:
        number, probability = numbers(sample.get_attribute("aria-label"))
        row = rows[rows["sample"] == number][0]
        told = sample.get_attribute("title")
        assert re.search(rf"(?i)label:? {row['target']}\b", told) and f"{probability:g}" in told
        assert re.search(rf"(?i)predict\w*:? {row['prediction']}\b", told)


def test_pinned_patterns_of_several_layers_are_compared(page, own):
    show(page, own.address, PATTERN)
    cards(page).get_by_role("button", name="Pin", exact=True).click()
    expect(cards(page).get_by_role("button", name="Pinned")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("combobox", name="layer", exact=True).select_option("relu2")
    settle(page)
    press(page, "activation")
    cards(page).first.get_by_role("button", name="Pin", exact=True).click()
    expect(cards(page).first.get_by_role("button", name="Pinned")).to_be_visible()
    settle(page)
    compared = part(page, "Pinned patterns, compared")
    box = compared.get_by_role("group", name="values of units").get_by_role("button").first.get_attribute("aria-label")
    assert "relu3 relevance 0: lower" in box and "relu2 activation 0: lower" in box
    expect(compared.get_by_role("listitem")).to_have_text(["relu3 relevance 0", "relu2 activation 0"])
    expect(compared.get_by_text("Units of different layers are not the same")).to_be_visible()
    compared.get_by_role("button", name="take relu3 relevance 0 away").click()
    settle(page)
    expect(compared.get_by_role("button", name="take relu2 activation 0 away")).to_be_visible()
    expect(compared.get_by_role("button", name="take relu3 relevance 0 away")).to_have_count(0)


def test_pins_survive_a_reload(page, own):
    show(page, own.address, PATTERNS)
    for number in (0, 1):
        cards(page).nth(number).get_by_role("button", name="Pin", exact=True).click()
        expect(cards(page).nth(number).get_by_role("button", name="Pinned")).to_be_visible()
        settle(page)
    page.reload()
    settle(page)
    expect(page.get_by_role("button", name="Pinned")).to_have_count(2)
    assert [pin.number for pin in Source.of(own.store.path).notebook.read().pins] == [0, 1]
    show(page, own.address, PATTERNS)
    page.get_by_role("link", name="Compare 2 pinned patterns").click()
    expect(part(page, "Pinned patterns, compared").get_by_role("group", name="values of units")).to_be_visible()
    settle(page)


def test_all_patterns_that_hold_the_selected_samples(page, address, patterns):
    show(page, address, PATTERN)
    press(page, "Select its samples")
    size = patterns.sizes[0]
    found = part(page, f"Patterns that hold the {size} selected samples")
    here = found.get_by_role("listitem").filter(has_text="relu3, relevance: pattern 0")
    expect(here).to_contain_text(f"holds {size}")
    other = found.get_by_role("link", name=re.compile("^relu2, activation: pattern")).first
    number = numbers(other.inner_text())[-1]
    other.click()
    heading(page, "Patterns of relu2")
    heading(page, f"Pattern {number:g}", level=2)
    settle(page)
    page.get_by_role("link", name="Select none").click()
    expect(found).to_have_count(0)


def test_samples_are_selected_on_their_map(page, own):
    show(page, own.address, f"#samples?layer={LAYER}&quantity=relevance")
    canvas = page.get_by_role("application")
    if not canvas.count():
        page.get_by_role("button", name="Lay out all samples").click()
    expect(canvas).to_be_visible(timeout=60_000)
    settle(page)
    box = canvas.bounding_box()
    page.keyboard.down("Shift")
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 20, steps=4)
    page.mouse.up()
    page.keyboard.up("Shift")
    expect(page.get_by_text(re.compile(r"^\d+ samples selected"))).to_be_visible()
    assert "samples=" in page.url
    page.get_by_role("link", name="Show all patterns that hold them").click()
    title = re.compile(r"^Patterns that hold the \d+ selected samples$")
    expect(page.get_by_role("heading", name=title)).to_be_visible()
    settle(page)


def test_pills_take_filters_away(page, address, patterns):
    show(page, address, PATTERNS)
    choose(page, "label", "3")
    choose(page, "label", "5")
    choose(page, "prediction", "5")
    assert cards(page).count() < len(patterns)
    press(page, "remove the label 3")
    assert "labels=5" in page.url
    press(page, "Clear all")
    expect(cards(page)).to_have_count(len(patterns))
    assert "labels" not in page.url and "predictions" not in page.url
    expect(page.get_by_role("button", name="Clear all")).to_have_count(0)


def test_patterns_are_found_by_a_button_and_kept(page, own):
    show(page, own.address, "#patterns?layer=relu1&quantity=activation")
    page.get_by_role("button", name="Find patterns").click()
    expect(page.get_by_text(re.compile(r"^\d+ patterns? of 400 samples"))).to_be_visible(timeout=60_000)
    settle(page)
    found = Patterns.load(own.store, layer="relu1", quantity="activation")
    assert len(found) == cards(page).count()


def test_a_sample_tells_its_pattern(page, address, patterns, with_model):
    samples = with_model.rows("relevance")["sample"]
    sample = samples[patterns.labels == 0][patterns.probability[patterns.labels == 0].argmax()]
    show(page, address, f"#sample?input={sample}&layer={LAYER}")
    expect(page.get_by_text(re.compile(r"^Belongs to pattern 0 of relu3 \(\d.*% sure\)\.$"))).to_be_visible()
    page.get_by_role("link", name="pattern 0", exact=True).click()
    heading(page, "Pattern 0", level=2)
    settle(page)


def ranked(page):
    units = page.get_by_role("region", name="rankings").get_by_role("link", name=re.compile(f"^{LAYER} "))
    return units.all_inner_texts()


def test_rankings_stand_side_by_side_with_those_of_each_class(page, address, digit_sweep):
    store = Source.of(*digit_sweep).store
    anova = next(found for found in Ranking.kept(store).values() if found.method == "anova")
    show(page, address, NEURONS)
    table = page.get_by_role("region", name="rankings")
    for method in ("relevance", "anova"):
        expect(table.get_by_role("columnheader", name=method)).to_be_visible()
    table.get_by_role("columnheader", name="anova").get_by_role("button").click()
    settle(page)
    expect(table.get_by_role("columnheader", name="anova")).to_have_attribute("aria-sort", "descending")
    assert ranked(page)[:5] == [f"{LAYER} {concept}" for concept in anova.order[:5].tolist()]
    choose(page, "for", "3")
    place = list(map(str, anova.classes)).index("3")
    assert ranked(page)[:5] == [f"{LAYER} {concept}" for concept in anova.class_order[place][:5].tolist()]


def test_a_ranking_is_added_and_kept(page, own):
    show(page, own.address, "#neurons?layer=relu2")
    expect(page.get_by_text("The store keeps no ranking of this layer yet.")).to_be_visible()
    choose(page, "add a ranking by", "variance")
    page.get_by_role("button", name="Rank", exact=True).click()
    expect(page.get_by_role("columnheader", name="variance")).to_be_visible(timeout=30_000)
    settle(page)
    kept = [found for found in Ranking.kept(own.store).values() if found.layers == ["relu2"]]
    assert [found.method for found in kept] == ["variance"]
    assert page.get_by_role("region", name="rankings").get_by_role("link").first.inner_text() == (
        f"relu2 {kept[0].order[0]}")


def test_curves_of_ablation_from_both_ends_of_rankings(page, own):
    show(page, own.address, NEURONS)
    chart = page.get_by_role("group", name="what is left of the model")
    if not chart.count():
        page.get_by_role("button", name="Take units away").click()
    expect(chart).to_be_visible(timeout=120_000)
    settle(page)
    entries = chart.get_by_role("button").all_inner_texts()
    assert len([name for name in entries if name.endswith("most first")]) == 2
    assert len([name for name in entries if name.endswith("least first")]) == 2 and "random orders" in entries
    lines = chart.locator("path")
    before = lines.count()
    chart.get_by_role("button", name="random orders").click()
    expect(lines).to_have_count(before - 1)
    press(page, "set to mean")
    assert "by=mean" in page.url


def test_units_are_set_with_sliders(page, address):
    show(page, address, f"{NEURONS}&input=5")
    for unit in ("20", "21"):
        written(page, "unit to add").fill(unit)
        press(page, "Add")
    values = part(page, "With other values")
    slider = page.get_by_role("slider", name="relu3 20")
    low, high = (float(slider.get_attribute(name)) for name in ("min", "max"))
    found = {}
    for name in ("min", "mean", "max"):
        press(page, f"set relu3 20 to its {name}")
        page.wait_for_timeout(250)
        settle(page)
        found[name] = float(slider.input_value()), values.get_by_role("group", name="after", exact=True).inner_text()
    assert low <= found["min"][0] < found["mean"][0] < found["max"][0] == pytest.approx(high, abs=(high - low) / 100)
    assert found["min"][1] != found["max"][1]
    expect(values.get_by_text(re.compile("^It (still )?answers "))).to_be_visible()
    expect(values.get_by_role("img", name="heatmap with these values")).to_be_visible()
    press(page, "leave relu3 20 as it is")
    expect(page.get_by_role("slider")).to_have_count(1)


def test_each_set_of_units_is_a_row(page, address):
    show(page, address, f"{NEURONS}&input=5")
    press(page, "The first three")
    expect(page.get_by_role("slider")).to_have_count(3)
    press(page, "Keep this set as a row")
    page.get_by_role("button", name=re.compile("to its max$")).first.click()
    page.wait_for_timeout(300)
    settle(page)
    press(page, "Keep this set as a row")
    rows = page.get_by_role("button", name="remove", exact=True)
    expect(rows).to_have_count(2)
    rows.first.click()
    expect(rows).to_have_count(1)
    settle(page)


def test_a_ranked_unit_is_set_from_the_table(page, address):
    show(page, address, NEURONS)
    name = ranked(page)[0]
    page.get_by_role("region", name="rankings").get_by_role("button", name=f"set unit {name.split()[-1]}").click()
    settle(page)
    expect(page.get_by_role("slider", name=name)).to_be_visible()


def coloured(page):
    return page.get_by_role("group", name="text 0").locator("[title]").evaluate_all(
        "found => found.map((one) => getComputedStyle(one).backgroundColor)")


def test_concepts_colour_the_tokens_of_texts(page, text_address):
    show(page, text_address, "#text?quantity=activation&concepts=32")
    one = coloured(page)
    assert len(set(one)) > 1
    write(page, f"concepts of {TEXT_LAYERS[-1]}", "32,5")
    expect(page.get_by_text("the mean of the chosen concepts")).to_be_visible()
    heading(page, "Words of concept 32", level=2)
    heading(page, "Words of concept 5", level=2)
    write(page, f"concepts of {TEXT_LAYERS[-1]}", "3")
    assert coloured(page) != one


def test_words_of_a_concept_with_mean_and_deviation(page, text_address):
    show(page, text_address, "#text?concepts=32")
    words = part(page, "Words of concept 32")
    expect(words.get_by_text(re.compile(r"^mean -?[\d.e-]+, standard deviation [\d.e-]+; "))).to_be_visible()
    expect(words.get_by_role("group", name="words of concept 32").locator("[title]")).to_have_count(20)


# What they could not do


def test_a_picture_of_ones_own_is_explained(page, address, digit_sweep):
    from torchvision.transforms.functional import to_pil_image

    image, label = digit_sweep[0].dataset[5]
    content = io.BytesIO()
    to_pil_image(image).save(content, "PNG")
    show(page, address, f"#samples?layer={LAYER}")
    page.get_by_label("explain a picture of your own").set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": content.getvalue()})
    heading(page, "An uploaded picture")
    settle(page)
    answers = page.get_by_role("group", name="what the model answers").get_by_role("button")
    expect(answers.first).to_have_attribute("aria-label", re.compile(f"^{label}: "))
    expect(page.get_by_role("img", name=f"heatmap for {label}")).to_be_visible()
    bar("concepts of relu3")(page)
    expect(page.get_by_role("img", name=re.compile(r"^heatmap of concept \d+"))).to_be_visible()
    assert re.search("input=u[0-9a-f]+", page.url)
    settle(page)
    assert page.locator(".trouble").count() == 0


def test_a_class_is_explained_against_another(page, address):
    show(page, address, SAMPLE)
    before = painted(page, "heatmap for 6")
    choose(page, "and not", "0")
    expect(page.get_by_text("Red: for 6; blue: for 0.")).to_be_visible()
    assert painted(page, "heatmap for 6") != before
    choose(page, "explain", "8")
    expect(page.get_by_role("img", name="heatmap for 8")).to_be_visible()
    assert "against" not in page.url


def test_an_answer_is_explained_where_it_is_chosen(page, address):
    show(page, address, SAMPLE)
    bar("what the model answers", 1)(page)
    settle(page)
    target = re.search(r"explain=(\d)", page.url).group(1)
    expect(page.get_by_role("img", name=f"heatmap for {target}")).to_be_visible()


def test_a_concept_that_is_chosen_is_shown_where_it_is(page, address):
    show(page, address, SAMPLE)
    concepts = page.get_by_role("group", name="concepts of relu3").get_by_role("button")
    found = []
    for place in (0, 1):
        concept = numbers(concepts.nth(place).get_attribute("aria-label"))[0]
        concepts.nth(place).click()
        settle(page)
        heading(page, f"Where concept {concept:g} is", level=2)
        found.append(painted(page, re.compile(f"^heatmap of concept {concept:g}$")))
    assert found[0] != found[1]
    expect(concepts.nth(1)).to_have_attribute("aria-pressed", "true")
    concepts.nth(1).click()
    expect(page.get_by_role("heading", name=re.compile("^Where concept"))).to_have_count(0)
    settle(page)


def test_all_concepts_of_a_sample_are_cells_that_choose_one(page, address, with_model):
    show(page, address, f"#sample?input=176&layer={LAYER}")
    values = with_model.store.values(LAYER)[176]
    cells = page.get_by_role("group", name=f"relevance of all concepts of {LAYER}").get_by_role("button")
    expect(cells).to_have_count(len(values))
    strongest = int(np.abs(values).argmax())
    assert cells.nth(strongest).locator("i").evaluate("cell => cell.style.opacity") == "1"
    cells.nth(strongest).click()
    expect(page.get_by_role("link", name=f"All about concept {strongest}")).to_be_visible()


def test_two_samples_stand_side_by_side(page, address):
    show(page, address, SAMPLE)
    write(page, "beside sample", "7")
    heading(page, "Sample 5 and sample 7")
    for name in ("sample 5", "sample 7"):
        expect(page.get_by_role("img", name=name, exact=True)).to_be_visible()
    boxes = [part(page, "The sample").nth(place).bounding_box() for place in (0, 1)]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"] and boxes[0]["y"] == boxes[1]["y"]
    expect(page.get_by_role("heading", name="Why")).to_have_count(2)


def test_what_happens_without_a_concept_in_four_ways(page, address):
    show(page, address, "#concepts?layer=relu2")
    first_concept(page).click()
    without, found = part(page, "What happens without it"), {}
    for name in ("without it", "half", "doubled", "turned"):
        press(page, name)
        expect(without.get_by_role("heading", name=name, exact=True)).to_be_visible()
        before, after = (without.get_by_role("group", name=when, exact=True) for when in ("before", "after"))
        found[name] = after.inner_text()
        assert found[name] != before.inner_text()
    assert len(set(found.values())) == 4
    write(page, "set it to", "3")
    expect(without.get_by_role("heading", name="set to 3")).to_be_visible()


def test_what_a_concept_is_made_of(page, address):
    show(page, address, CONCEPT)
    made = page.get_by_role("group", name="what the concept is made of, and where it goes")
    nodes = made.get_by_role("button")
    names = [node.get_attribute("aria-label") for node in nodes.all()]
    assert any(name.startswith("relu2 ") for name in names) and any(name.startswith("relu1 ") for name in names)
    expect(page.get_by_text(re.compile(r"^Held by concepts that are not shown \(remainder\): relu3 12: [\d.]+%"))
           ).to_be_visible()
    chosen = next(name for name in names if name.startswith("relu2 "))
    made.get_by_role("button", name=chosen, exact=True).click()
    heading(page, chosen.removeprefix("relu2 "))
    settle(page)


def test_concepts_are_searched_sorted_and_filtered(page, address):
    show(page, address, f"#concepts?layer={LAYER}")
    page.get_by_role("searchbox").fill("26")
    expect(page.get_by_text("1 concept of 32")).to_be_visible()
    expect(page.get_by_role("link", name="concept 26", exact=True)).to_be_visible()
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.get_by_role("searchbox").fill("none like that")
    expect(page.get_by_text("No concept is like that.")).to_be_visible()
    page.get_by_role("link", name="Show all").click()
    expect(page.get_by_text("32 concepts of 32")).to_be_visible()
    settle(page)
    for name, told in {"maximum": r"max ([\d.]+)", "share": r"([\d.]+)%", "clarity": r"clarity ([\d.]+)"}.items():
        choose(page, "sort by", name)
        found = [float(re.search(told, text).group(1)) for text in page.get_by_role("listitem").all_inner_texts()]
        assert len(found) > 4 and found == sorted(found, reverse=True)
    choose(page, "sort by", "number")
    expect(first_concept(page)).to_have_text("concept 0")
    choose(page, "show", "not dead")
    alive = numbers(page.get_by_text(re.compile(r"^\d+ concepts of 32$")).inner_text())[0]
    assert 0 < alive < 32
    choose(page, "show", "with a name")
    expect(page.get_by_text("No concept is like that.")).to_be_visible()


def test_samples_of_a_class_are_shown_for_concepts(page, address, with_model):
    show(page, address, f"#concepts?layer={LAYER}")
    choose(page, "samples of", "3")
    rows = with_model.rows("relevance")
    names = page.get_by_role("link", name=re.compile(r"^sample \d+, number 1 of concept")).evaluate_all(
        "found => found.map((one) => one.getAttribute('aria-label'))")
    assert names and {int(rows["target"][rows["sample"] == numbers(name)[0]][0]) for name in names} == {3}


def test_a_concept_gets_a_name_and_a_note(page, own):
    show(page, own.address, CONCEPT)
    write(page, "name", "loop")
    write(page, "note", "of the lower half")
    page.reload()
    settle(page)
    heading(page, "loop (12)")
    expect(page.get_by_text("“loop”, named by you")).to_be_visible()
    expect(written(page, "note")).to_have_value("of the lower half")
    show(page, own.address, f"#concepts?layer={LAYER}&only=named")
    expect(page.get_by_role("link", name="loop (12)")).to_be_visible()
    expect(page.get_by_text("1 concept of 32")).to_be_visible()
    page.get_by_role("searchbox").fill("loop")
    settle(page)
    expect(page.get_by_role("link", name="loop (12)")).to_be_visible()
    kept = Source.of(own.store.path).notebook.read().notes
    assert [(note.name, note.text) for note in kept] == [("loop", "of the lower half")]


@pytest.mark.parametrize("place", [
    f"#concepts?layer={LAYER}", CONCEPT, f"#concept?concept=16&layer={LAYER}", f"#sample?input=176&layer={LAYER}",
    f"#sample?input=176&layer={LAYER}&concept=12", f"#maps?layer={LAYER}", "#concepts?search=%3Cscript%3E",
])
def test_a_name_is_never_more_than_a_text(page, own, place):
    show(page, own.address, CONCEPT)
    write(page, "name", EVIL)
    write(page, "note", EVIL)
    expect(written(page, "name")).to_have_value(EVIL)
    show(page, own.address, place)
    told = f"{EVIL} (12)"
    seen = page.get_by_text(told).or_(page.get_by_label(told)).first
    expect(seen).to_be_attached()
    assert page.locator("main script, main img[src=x]").count() == 0


def test_a_search_is_never_more_than_a_text(page, address):
    show(page, address, f"#concepts?layer={LAYER}")
    page.get_by_role("searchbox").fill(EVIL)
    expect(page.get_by_text("No concept is like that.")).to_be_visible()
    page.reload()
    settle(page)
    expect(page.get_by_role("searchbox")).to_have_value(EVIL)


def test_work_is_cancelled_and_tried_again(browser, own):
    with browser.new_context(viewport=SIZE) as context:
        page = watched(context, [])  # the browser reports the answer that says that it was cancelled
        slow = own.model.register_forward_pre_hook(lambda *_: time.sleep(1))
        try:
            page.goto(f"{own.address}#sample?input=33&layer=relu1")
            why = part(page, "Why")
            why.get_by_role("button", name="Cancel").click()
            expect(why.get_by_text(re.compile("cancelled"))).to_be_visible(timeout=15_000)
        finally:
            slow.remove()
        why.get_by_role("button", name="Try again").click()
        expect(page.get_by_role("img", name=re.compile("^heatmap for"))).to_be_visible(timeout=15_000)
        settle(page)


def test_work_whose_result_would_be_kept_is_cancelled_while_it_waits(browser, own):
    done = threading.Event()
    own.source.worker.submit("other", "something else", lambda progress: done.wait(60))
    try:
        with browser.new_context(viewport=SIZE) as context:
            page = watched(context, [])
            show(page, own.address, "#neurons?layer=relu1&method=probeless")
            button = page.get_by_role("button", name="Rank", exact=True)
            with page.expect_response(lambda answer: answer.request.method == "POST"):
                button.click()
            expect(button).to_be_disabled()
            part(page, "Rankings").get_by_role("button", name="Cancel").click()
            expect(part(page, "Rankings").get_by_text(re.compile("cancelled"))).to_be_visible()
            expect(button).to_be_enabled()
    finally:
        done.set()
    assert not any(found.layers == ["relu1"] for found in Ranking.kept(own.store).values())


# On a telephone


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("place", [*DIGIT_VIEWS, *(f"texts {place}" for place in TEXT_VIEWS)])
def test_no_page_scrolls_sideways_on_a_narrow_screen(browser, address, text_address, place, scheme):
    context, faults = browser.new_context(viewport={"width": 400, "height": 800}, color_scheme=scheme), []
    page = watched(context, faults)
    show(page, text_address if place.startswith("texts ") else address, place.removeprefix("texts "))
    wide, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    ground = page.locator("body").evaluate("one => getComputedStyle(one).backgroundColor")
    context.close()
    assert wide <= room and faults == []
    assert (sum(numbers(ground)[:3]) < 384) == (scheme == "dark")


def test_the_tokens_of_a_text_are_coloured_by_relevance(page, text_address):
    show(page, text_address, "#sample?input=3")
    told = part(page, "Why").get_by_role("group", name="relevance of the tokens of text 3")
    colours = told.locator("span").evaluate_all("found => found.map((one) => getComputedStyle(one).backgroundColor)")
    assert len(colours) == 7 and len(set(colours)) > 3


def test_what_is_pinned_and_written_is_listed(page, own):
    on = {"view": "concept", "layer": 2, "quantity": "relevance", "number": 12}
    own.source.notebook.change(NoteChange(on=on, is_pinned=True, name="loop", text="of the lower half"))
    show(page, own.address, "#model")
    expect(part(page, "Pins and notes")).to_contain_text("relu3 loop (12) – of the lower half")
    part(page, "Pins and notes").get_by_role("link", name="relu3 loop (12)").click()
    heading(page, "loop (12)")


def test_what_is_measured_without_a_concept_stands_beside_the_same_at_random(page, address, with_model):
    show(page, address, CONCEPT)
    report = TrustReport.load(with_model.store, LAYER)
    place = report["concept"].tolist().index(12)
    told = part(page, "What happens without it").inner_text()
    for column in ("effect", "effect_lower", "effect_upper", "effect_control"):
        assert f"{float(f'{abs(report[column][place]):.3g}'):g}" in told
    assert re.search(r"(A|No) clear difference, by the trust report\.", told)


def test_the_checks_of_a_trust_report_are_explained(page, address):
    show(page, address, f"#model?layer={LAYER}")
    page.get_by_text("What the checks are").click()
    expect(page.get_by_text("The weights above the layer are drawn anew")).to_be_visible()


def test_classes_that_a_concept_speaks_against_are_below_zero(page, address, with_model):
    found = class_shares(with_model.store, LAYER)
    shares = found.shares[:, 12]
    assert (shares < 0).any() and (shares > 0).any()
    show(page, address, CONCEPT)
    rows = part(page, "For which classes").get_by_role("button").all_inner_texts()
    told = {int(row.split()[0]): row.split()[1].removesuffix("%") for row in rows}
    portions = 100 * found.portions_of(12)
    for target, share, portion in zip(found.classes.tolist(), shares, portions):
        if portion > .1:
            assert told[target].startswith("-") == (share < 0)
            assert abs(float(told[target])) == pytest.approx(portion, abs=.06)


def test_a_concept_that_is_zero_everywhere_shows_nothing(page, own):
    values = own.store.values(LAYER, "relevance")[:]
    dead = (values == 0).all(0).nonzero()[0]
    assert len(dead)
    show(page, own.address, f"#concept?concept={dead[0]}&layer={LAYER}")
    for name in ("Samples that show it", "For which classes"):
        expect(part(page, name)).to_contain_text("zero at all samples")
        expect(part(page, name).get_by_role("link")).to_have_count(0)
    show(page, own.address, f"#concepts?layer={LAYER}&search={dead[0]}&sort=id")
    expect(page.get_by_role("list", name="concepts")).to_contain_text("Zero at all samples.")


def test_without_a_model_there_are_no_buttons_for_it(page, store_alone):
    with serving([store_alone]) as address:
        show(page, address, NEURONS)
        expect(page.get_by_role("columnheader", name="unit")).to_be_visible()
        expect(page.get_by_role("button", name=re.compile("^set unit"))).to_have_count(0)
        expect(part(page, "Without them")).to_contain_text("Only with the model")
        expect(page.get_by_text("the first 30 of 32 units")).to_be_visible()
        show(page, address, f"#samples?layer={LAYER}&quantity=activation")
        expect(page.get_by_role("button", name="pattern", exact=True)).to_have_count(0)
