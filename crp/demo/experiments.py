"""The demo's experiments: the network without some of its concepts, and with those of another digit."""
from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from crp.attribution import Contrast
from crp.demo.digits import DIGIT_LAYERS
from crp.demo.story import Story
from crp.neurons import ablation_curve, effects, rank
from crp.pictures.image import imgify
from crp.pictures.plotting import NEGATIVE, POSITIVE, new_figure, show_picture
from crp.store import ReferenceStore

LAYER = DIGIT_LAYERS[-1]
STEPS = tuple(np.linspace(.1, 1, 10).tolist())


def without_concepts(story: Story) -> tuple[str, Figure]:
    """What is left of the accuracy as concepts are taken away, by relevance, by activation and at random."""
    store = ReferenceStore(story.references.path)
    rankings = {by: rank(store, by=by, layers=LAYER, n_bootstrap=0) for by in ("relevance", "activation")}
    curves = ablation_curve(
        story.attribution.model, story.held_out.tensors, rankings, by=["zero", "mean"], steps=STEPS, random=8,
        batch_size=450, verbose=False,
    )
    areas = {(area.ranking, area.by): area.difference for area in curves.areas()}
    caption = (
        f"Are relevant concepts those that the network needs? The {len(rankings['relevance'])} concepts of {LAYER} are "
        "taken away, the most important first (lines) and the least important first (dashed), and the accuracy on "
        "held-out digits is measured. The better a ranking, the wider the gap between its two lines: "
        f"{areas['relevance', 'zero']:.2f} by relevance and {areas['activation', 'zero']:.2f} by activation where "
        f"concepts are set to zero, {areas['relevance', 'mean']:.2f} and {areas['activation', 'mean']:.2f} where they "
        "are set to their mean. Grey: eight random orders, and the range between them."
    )
    return caption, curves.plot((9, 3))


def of_another_digit(story: Story, other: int = 9, count: int = 8) -> tuple[str, Figure]:
    """What each concept changes if it is as in another digit."""
    digit = story.explained_class
    images = story.example(digit), story.example(other)
    measured, estimated = (
        effects(story.attribution, *images, [LAYER], y=Contrast(digit, other), method=method)
        for method in ("exact", "relevance")
    )
    concepts = measured.ranking().order[:count].tolist()
    figure = new_figure((9, 2.6))
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 3))[0]
    for axis, image, name in zip(left.subplots(2, 1), images, (f"the {digit}", f"concepts of this {other}")):
        show_picture(axis, imgify(image[0], cmap="gray"))
        axis.set_title(name, fontsize=9)
    axis = right.subplots()
    place = np.arange(len(concepts))
    values = measured[LAYER][0, concepts]
    axis.bar(place, values, color=np.where(values < 0, NEGATIVE, POSITIVE), width=0.6, label="measured")
    axis.plot(place, estimated[LAYER][0, concepts], "o", color="black", markersize=5, label="estimated")
    axis.axhline(0, color="gray", linewidth=0.8)
    axis.set_xticks(place, [str(concept) for concept in concepts], fontsize=8)
    axis.set_xlabel(f"concept of {LAYER}", fontsize=8)
    axis.set_ylabel(f"change of logit {digit} - logit {other}", fontsize=8)
    axis.tick_params(axis="y", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
    caption = (
        f"What makes this {digit} a {digit} and no {other}? One concept of {LAYER} at a time gets the values that it "
        f"has in a {other}, and the lead of {digit} over {other} changes: from {measured.clean[0]:.1f} here to "
        f"{measured.counterfactual[0]:.1f} for all at once. Bars are measured, concept by concept; dots are the "
        "estimate for all concepts by a single backward pass (relevance per unit of activation, times the difference), "
        "which misses what is silent in the one and awake in the other."
    )
    return caption, figure
