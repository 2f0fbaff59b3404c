"""The demo: what a network that reads digits has learned, in pictures."""
from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from crp.analysis import ClassShares, ResponseMap, TopographicMap, class_shares, contrast, group_profiles
from crp.attribution.conditional import AttributionGraph, CondAttribution
from crp.attribution.model_graph import trace_model_graph
from crp.concepts import ChannelConcept
from crp.demo.digits import DIGIT_LAYERS
from crp.demo.sentences import describe
from crp.pictures.image import imgify, vis_img_heatmap, vis_opaque_img
from crp.pictures.map_plots import RESPONSE
from crp.pictures.plotting import new_figure, show_picture
from crp.pictures.words import in_words
from crp.rules.composites import default_composite
from crp.store import ReferenceStore
from crp.visualization.feature_visualization import FeatureVisualization

LAYER = DIGIT_LAYERS[-1]
SPOTLIGHT = partial(vis_opaque_img, kernel_size=5, vis_th=0.15, crop_th=0.05)
READING = (
    "The concepts on this page are the channels of the network's layers; relu1 to relu3 are what its three "
    "convolutions give. In heatmaps red speaks for the prediction (or the concept) and blue against it. The shares in "
    "percent are of the relevance that all concepts of a layer hold together, without regard to sign.\n\n"
)



def _lit_in_whole(images: torch.Tensor, heatmaps: torch.Tensor, rf: bool) -> list[Image.Image]:
    """Whole images, lit where a neuron looks."""
    return vis_opaque_img(images, heatmaps, False, kernel_size=3, vis_th=0.1)


class Story:
    """The demo's steps; each returns a caption and a figure.

    Parameters
    ----------
    model : torch.nn.Sequential
        From :func:`crp.demo.digits.train_digit_network`.
    training, held_out : torch.utils.data.TensorDataset
    store : Path
        Folder of the sweep.
    explained_class : int, default 4
        Which digit the portraits and the graph explain.
    """

    def __init__(
        self, model: nn.Sequential, training: TensorDataset, held_out: TensorDataset, store: Path,
        explained_class: int = 4,
    ):
        self.training, self.held_out = training, held_out
        self.explained_class = explained_class
        self.composite = default_composite(model)
        self.attribution = CondAttribution(model)
        self.concept = ChannelConcept()
        self.references = FeatureVisualization(
            self.attribution, training, {layer: self.concept for layer in DIGIT_LAYERS}, path=store
        )

    def sweep(self) -> None:
        """Collect what every training digit does to every concept."""
        self.references.run(self.composite, 0, len(self.training), overwrite=True)

    def example(self, digit: int) -> torch.Tensor:
        """The most typical held-out image [1, 1, H, W] of a class: the nearest to the mean of those read correctly."""
        images, classes = self.held_out.tensors
        images = images[classes == digit]
        with torch.no_grad():
            images = images[self.attribution.model(images).argmax(1) == digit]
        typical = (images - images.mean(0)).square().sum((1, 2, 3)).argmin()
        return images[typical:typical + 1]

    def main_concepts(self, count: int, digit: int | None = None) -> tuple[list[int], list[float]]:
        """The concepts most relevant for reading a digit, and their shares of the relevance."""
        digit = self.explained_class if digit is None else digit
        result = self.attribution(self.example(digit), [{"y": [digit]}], self.composite, record_layer=[LAYER])
        shares = self.concept.attribute(result.relevances[LAYER], abs_norm=True)[0]
        top = shares.topk(count)
        return top.indices.tolist(), top.values.tolist()

    def clear_concepts(self, count: int) -> tuple[list[int], list[float]]:
        """Concepts that are relevant for the explained digit and serve few digits, by share times clarity."""
        concepts, shares = self.main_concepts(2 * count)
        worth = np.array(shares) * self.shares_of_digits.clarity[concepts]
        chosen = np.argsort(-worth, kind="stable")[:count]
        return [concepts[i] for i in chosen], [shares[i] for i in chosen]

    @cached_property
    def shares_of_digits(self) -> ClassShares:
        """What the concepts hold of each digit."""
        return class_shares(ReferenceStore(self.references.path), LAYER)

    def sentence(self, concept: int) -> str:
        """What a concept stands for, by the digits that it serves and its place in them."""
        _, heatmaps = self.references.get_max_reference(concept, LAYER, composite=self.composite, plot_fn=None)[concept]
        return describe(self.shares_of_digits, concept, heatmaps)

    def overview(self, concepts: list[int], shares: list[float], count: int = 5) -> tuple[str, Figure]:
        """One prediction, its heatmap, and what some of its concepts stand for."""
        digit, image = self.explained_class, self.example(self.explained_class)
        conditions = [{"y": [digit]}] + [{LAYER: [concept], "y": [digit]} for concept in concepts]
        heatmaps = self.attribution(image, conditions, self.composite).heatmap
        figure = new_figure((7.5, 1.4 * len(concepts)))
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.1, 4))[0]
        for axis, picture, title in zip(
            left.subplots(2, 1), (imgify(image[0], cmap="gray"), imgify(heatmaps[0], symmetric=True)),
            (f"read as {digit}", "where it looks"),
        ):
            show_picture(axis, picture)
            axis.set_title(title, fontsize=12)
        for part, concept, share, heatmap in zip(
            right.subfigures(len(concepts), 1, squeeze=False)[:, 0], concepts, shares, heatmaps[1:]
        ):
            title = f"{share:.0%} of this {digit} is concept {concept}; {self.sentence(concept)}"
            part.suptitle(title, fontsize=10.5)
            axes = part.subplots(1, count + 1)
            show_picture(axes[0], imgify(heatmap, symmetric=True))
            references = self.references.get_max_reference(
                concept, LAYER, "relevance", (0, count), self.composite, plot_fn=SPOTLIGHT
            )[concept]
            for axis, picture in zip(axes[1:], references):
                show_picture(axis, picture)
        caption = (
            f"At the left a digit that the network had not seen, and the relevance of its pixels. At the right that "
            f"relevance is taken apart: {len(concepts)} concepts of {LAYER} that made the prediction, each with its "
            f"share and its own heatmap, and the {count} training digits at which it is most relevant, lit where it "
            "is. They show what the concept stands for."
        )
        return caption, figure

    def class_heatmaps(self) -> tuple[str, Figure]:
        """One held-out digit of each class, and the relevance of its pixels."""
        images = torch.cat([self.example(digit) for digit in range(10)])
        heatmaps = self.attribution(images, [{"y": [digit]} for digit in range(10)], self.composite).heatmap
        figure = new_figure((10, 2.4))
        axes = figure.subplots(2, 10)
        for digit, pair in enumerate(zip(*vis_img_heatmap(images, heatmaps))):
            axes[0, digit].set_title(f"read as {digit}", fontsize=9)
            for axis, picture in zip(axes[:, digit], pair):
                show_picture(axis, picture)
        caption = READING + "One held-out digit of each class, and below it the relevance of each pixel for that class."
        return caption, figure

    def concepts_of_predictions(self, digits: tuple[int, ...] = (0, 3, 4, 7), count: int = 5) -> tuple[str, Figure]:
        """For some digits, the most relevant concepts with their share, and a conditional heatmap for each."""
        figure = new_figure((9.5, 1.45 * len(digits) + 0.3))
        axes = figure.subplots(len(digits), count + 2)
        for line, digit in zip(axes, digits):
            image = self.example(digit)
            concepts, shares = self.main_concepts(count, digit)
            conditions = [{"y": [digit]}] + [{LAYER: [concept], "y": [digit]} for concept in concepts]
            heatmaps = self.attribution(image, conditions, self.composite).heatmap
            titles = [f"all, for {digit}"] + [
                f"concept {concept}: {share:.0%}" for concept, share in zip(concepts, shares)
            ]
            show_picture(line[0], imgify(image[0], cmap="gray"))
            line[0].set_title("image", fontsize=8)
            for axis, heatmap, title in zip(line[1:], heatmaps, titles):
                show_picture(axis, imgify(heatmap, symmetric=True))
                axis.set_title(title, fontsize=8)
        caption = (
            f"Held-out digits, the relevance of their pixels, and then the same for one concept of {LAYER} at a time: "
            "relevance is let through this concept only. The title gives the concept's share of the prediction."
        )
        return caption, figure

    def portrait(self, concept: int, share: float) -> tuple[str, Figure]:
        """What a concept stands for: where it is in the explained digit, its reference samples, its classes."""
        lines = []
        for mode, name in (("relevance", "most relevant"), ("activation", "most active")):
            arguments = (concept, LAYER, mode, (0, 8), self.composite)
            images, heatmaps = self.references.get_max_reference(*arguments)[concept]
            spots = self.references.get_max_reference(*arguments, rf=True, plot_fn=SPOTLIGHT)[concept]
            lines += [
                (f"the digits at which it is\n{name}", images), ("where it is in them", heatmaps),
                ("the spot alone", spots),
            ]

        figure = new_figure((10.5, 6.2))
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 4.2))[0]
        self._draw_summary(left, concept, share)
        axes = right.subplots(len(lines), 9, width_ratios=[1.5] + [1] * 8)
        for axis, (label, pictures) in zip(axes, lines):
            axis[0].axis("off")
            axis[0].text(1, 0.5, label, ha="right", va="center", fontsize=8, transform=axis[0].transAxes)
            for place, picture in zip(axis[1:], pictures):
                show_picture(place, picture)
        caption = (
            f"Concept {concept}: {self.sentence(concept)}.\n\n"
            f"It holds {share:.0%} of the relevance when this {self.explained_class} is read. At the "
            "left: where it is in the image, and how strongly it serves each digit. At the right: the training digits "
            "at which it is most relevant and most active, where it is in each of them (heatmaps on condition of this "
            "concept), and the spot its strongest neuron sees."
        )
        return caption, figure

    def _draw_summary(self, figure: SubFigure, concept: int, share: float) -> None:
        image = self.example(self.explained_class)
        condition = [{LAYER: [concept], "y": [self.explained_class]}]
        heatmap = self.attribution(image, condition, self.composite).heatmap[0]
        top, middle, bottom = figure.subplots(3, 1, height_ratios=(1, 1, 1.2))
        top.set_title("the image", fontsize=9)
        show_picture(top, imgify(image[0], cmap="gray"))
        middle.set_title(f"concept {concept}: {share:.0%}", fontsize=9)
        show_picture(middle, imgify(heatmap, symmetric=True))
        targets, values = self.references.compute_stats(concept, LAYER, top_N=10)
        order = np.argsort(targets)
        bottom.barh(targets[order], values[order], color="#c03028")
        bottom.set_title("serves the digits", fontsize=9)
        bottom.set_xlabel(f"mean share of {LAYER}\nin the ten best of each", fontsize=7)
        bottom.set(yticks=targets[order])
        bottom.invert_yaxis()
        bottom.xaxis.set_major_formatter("{x:.0%}")
        bottom.xaxis.set_major_locator(MaxNLocator(3))
        bottom.tick_params(labelsize=8)
        bottom.spines[["top", "right"]].set_visible(False)

    def graph(self, concept: int) -> tuple[str, Figure]:
        """The concepts of lower layers that a concept is made of, in the explained digit."""
        image = self.example(self.explained_class)
        layer_map = self.references.layer_map
        model_graph = trace_model_graph(self.attribution.model, image, layer_map)
        decompose = AttributionGraph(self.attribution, model_graph, layer_map)
        found = decompose(image, self.composite, concept, LAYER, self.explained_class, verbose=False)
        figure = found.plot(self.references, composite=self.composite, rf=True, plot_fn=_lit_in_whole)
        caption = (
            f"Concept {concept} of {LAYER}, framed, in the {self.explained_class} explained above, decomposed into the "
            "concepts of the layers below. A number is the share that a concept has of what the concept at its right "
            "gets from this layer, and the line is as wide. Each concept is shown by the training digit at which it is "
            "most relevant, lit where its strongest neuron looks."
        )
        return caption, figure

    def patterns(self, count: int = 6) -> tuple[str, Figure]:
        """The most persistent patterns of relevance."""
        found = self.references.find_patterns(LAYER, "relevance", min_pattern_size=15)
        figure = found.plot_exemplars(self.training, range(min(count, len(found))), n=6)
        classes, counts = found.label_counts(self.training.tensors[1][found.samples])
        mixed = [
            f"pattern {pattern} holds " + in_words([f"{counts[pattern, c]} x {classes[c]}" for c in np.flatnonzero(
                counts[pattern]
            )]) for pattern in range(min(count, len(found)))
        ]
        caption = (
            f"Training digits in which the concepts of {LAYER} are relevant in a similar way form {len(found)} "
            f"patterns ({np.mean(found.labels < 0):.0%} of the digits belong to none). The {len(mixed)} most "
            "persistent: the average of each, the digits that belong to it most firmly and those that belong least: "
            + "; ".join(mixed) + "."
        )
        return caption, figure

    def topographic_maps(self) -> tuple[str, Figure]:
        """The channels of a layer on a map, coloured by what sets each digit apart."""
        profiles = group_profiles(ReferenceStore(self.references.path), layers=[LAYER], quantity="relevance")
        layout = TopographicMap().fit(profiles)
        named = replace(contrast(profiles), groups=[f"digit {group}" for group in profiles.groups])
        caption = (
            f"The {profiles[LAYER].shape[1]} channels of {LAYER} on a map, those that serve the same digits side by "
            "side. Red channels are more relevant in a digit than in the average digit, blue ones less."
        )
        return caption, layout.plot(profiles=named, arrange="grid", figsize=(9, 6.2))

    def response_maps(self, digits: tuple[int, ...] = (0, 1, 4, 7)) -> tuple[str, Figure]:
        """The neurons of all layers on one map, coloured by their responses to digits."""
        layers = [*DIGIT_LAYERS, "relu4"]
        response_map = ResponseMap().fit(self.attribution.model, self.training.tensors[0], layers).round()
        images, classes = self.held_out.tensors
        figure = new_figure((10, 2.9))
        for axis, digit in zip(figure.subplots(1, len(digits)), digits):
            picture = response_map.interpolate(images[classes == digit], "linear")
            drawn = axis.imshow(picture, cmap="viridis", vmin=0, vmax=1, origin="lower")
            axis.set_title(f"held-out digits {digit}", fontsize=9)
            axis.axis("off")
        bar = figure.colorbar(drawn, ax=figure.axes, shrink=0.8)
        bar.set_label(RESPONSE, fontsize=8)
        bar.ax.tick_params(labelsize=8)
        caption = (
            f"{len(response_map.neurons)} neurons of the layers {in_words(layers)} on one map. Neurons lie side by "
            "side if they rise and fall together over the training digits. The colour is their mean response, from the "
            "lowest (0) to the highest (1) that each has shown in training."
        )
        return caption, figure

