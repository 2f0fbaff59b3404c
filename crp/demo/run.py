"""The demo from start to end."""
from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from crp.demo.digits import accuracy, digit_datasets, train_digit_network
from crp.demo.experiments import of_another_digit, without_concepts
from crp.demo.page import Page
from crp.demo.story import LAYER, Story
from crp.explorer.pictures import Pictures
from crp.explorer.source import Source
from crp.trust import trust_report

INTRODUCTION = (
    "A small convolutional network was trained on scanned handwritten digits. What has it learned, and which of it "
    "made a prediction?"
)


class Demo(NamedTuple):
    """What the demo made.

    Attributes
    ----------
    page : Path
        ``index.html``
    store : Path
        Folder of the store.
    accuracy : float
        Share of the held-out digits that the network reads correctly.
    layer : str
        The layer whose concepts are shown.
    concepts : list of int
        Which, the most relevant first.
    """

    page: Path
    store: Path
    accuracy: float
    layer: str
    concepts: list[int]


def run_demo(folder: str | Path = "crp-demo") -> Demo:
    """Train a network on digits, explain it, and write pictures and a page that shows them.

    Parameters
    ----------
    folder : str or Path
        Where ``index.html``, the pictures and the store of the sweep go.

    Returns
    -------
    Demo
    """
    folder = Path(folder)
    training, held_out = digit_datasets()
    print(f"training a network on {len(training)} scanned digits ...")
    model = train_digit_network(training)
    correct = accuracy(model, held_out)
    print(f"  {correct:.1%} of {len(held_out)} held-out digits are read correctly")
    story = Story(model, training, held_out, folder / "store")
    page = Page(folder, "What has a network learned that reads digits?", INTRODUCTION)

    print(f"sweeping {len(training)} training digits ...")
    story.sweep()
    concepts, shares = story.clear_concepts(count=4)
    target = story.explained_class
    page.add("0-story", f"Why is this read as {target}?", *story.overview(concepts[:3], shares[:3]))
    page.add("1-class-heatmaps", "Where the network looks", *story.class_heatmaps())
    page.add("2-concepts-of-predictions", "Which concepts made the prediction", *story.concepts_of_predictions())
    print(f"  a held-out {target} is read as {target} for these concepts of {LAYER}, among others:")
    for number, (concept, share) in enumerate(zip(concepts, shares), 3):
        caption, figure = story.portrait(concept, share)
        page.add(f"{number}-concept-{concept}", f"Concept {concept} of {LAYER}", caption, figure)
        print(f"    concept {concept:2d}, {share:4.0%} of the relevance; {story.sentence(concept)}")
    page.add("7-attribution-graph", "What the strongest concept is made of", *story.graph(concepts[0]))
    page.add("8-patterns", f"How {LAYER} responds as a whole: patterns", *story.patterns())
    page.add("9-topographic-maps", f"A map of {LAYER} for each digit", *story.topographic_maps())
    page.add("10-response-maps", "A map of all neurons for each digit", *story.response_maps())
    print("taking concepts away ...")
    page.add("11-without-concepts", "What is left without its concepts", *without_concepts(story))
    page.add("12-effects", f"What makes it a {target}", *of_another_digit(story))
    print("checking whether all this can be trusted ...")
    report = trust_report(story.references, LAYER, composite=story.composite, held_out=held_out, verbose=False)
    print(f"  {LAYER} {'can' if report.holds else 'cannot'}: " + ", ".join(
        f"{'' if check.holds else 'not '}{check.name}" for check in report.checks if check.holds is not None
    ))
    Pictures(Source.of(story.references, story.composite)).keep()
    return Demo(page.write().resolve(), folder / "store", correct, LAYER, concepts)
