"""Which lower concepts a concept is made of: the attribution graph of one prediction."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from zennit.core import Composite

from crp.attribution.contrast import Contrast
from crp.attribution.model_graph import ModelGraph
from crp.attribution.passes import AttributionResult
from crp.concepts import as_id, as_layer_map
from crp.model.callbacks import call_as_taken
from crp.model.inputs import Inputs
from crp.model.names import unknown_layer_message
from crp.model.successors import Successor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from crp.pictures.graph_plots import GivesReferences

Node = tuple[str, int]


class GeneratesResults(Protocol):
    """What attributes one sample under many conditions, as ``CondAttribution`` does."""

    MODEL_OUTPUT_NAME: str

    def generate(self, *arguments: Any, **options: Any) -> Iterable[AttributionResult]:
        """Results for some conditions at a time."""


class ConceptGraph(NamedTuple):
    """Concepts and the relevance between them; unpacks into ``nodes, connections``.

    Attributes
    ----------
    nodes : list of (str, int)
        (layer, concept id), the concept asked for first. Each occurs once.
    connections : dict
        (layer, concept id) -> list of (lower layer, concept id, relevance), the strongest first in each layer.
    """

    nodes: list[Node]
    connections: dict[Node, list[tuple[str, int, float]]]

    def plot(
        self, feature_visualization: GivesReferences | None = None, figsize: tuple[float, float] | None = None,
        **reference_arguments: Any,
    ) -> Figure:
        """Draw the graph: a column per depth of layers, edges as wide as their relevance, red positive, blue negative.

        Parameters
        ----------
        feature_visualization : crp.visualization.FeatureVisualization, optional
            Puts a reference sample into each node.
        figsize : tuple of float, optional
            In inches; by default it grows with the graph.
        **reference_arguments
            For ``feature_visualization.get_max_reference``, such as ``composite``, ``rf`` and ``plot_fn`` (by default
            ``crp.image.vis_opaque_img``).

        Returns
        -------
        matplotlib.figure.Figure
        """
        from crp.pictures.graph_plots import draw_concept_graph
        from crp.pictures.image import vis_opaque_img  # matplotlib is only needed to draw

        reference_arguments.setdefault("plot_fn", vis_opaque_img)
        return draw_concept_graph(*self, feature_visualization, figsize, reference_arguments)


class AttributionGraph(Successor):
    """Decomposes a concept into the concepts of lower layers, those again, and so on, for one sample.

    Parameters
    ----------
    attribution : crp.attribution.CondAttribution
    graph : crp.attribution.model_graph.ModelGraph
    layer_map : dict, iterable of pairs, or iterable of str
        Layer -> concept, for the layers that may become nodes; or layers whose channels are the concepts.
    """

    replaced = {"_attribute_lower_level": "override __call__"}

    def __init__(self, attribution: GeneratesResults, graph: ModelGraph, layer_map: Mapping | Iterable):
        self.attribution = attribution
        self.graph = graph
        self.set_layer_map(layer_map)

    def set_layer_map(self, layer_map: Mapping | Iterable) -> None:
        """Choose other layers and concepts; the model graph shows the same layers."""
        self.layer_map = as_layer_map(layer_map)
        self.graph.set_layer_names(self.layer_map)

    def __call__(
        self,
        sample: Inputs,
        composite: Composite,
        concept_id: int,
        layer_name: str,
        target: int | Contrast | None = None,
        width: list[int] = [4, 2],  # noqa: B006
        parent_c_id: int | None = None,
        parent_layer: str | None = None,
        abs_norm: bool = True,
        batch_size: int = 16,
        verbose: bool = True,
    ) -> ConceptGraph:
        """Attribute a concept to the concepts below it.

        A node is attributed on condition of its own concept, of the concept asked for and of the target (not of the
        nodes between), with relevance along all paths.

        Parameters
        ----------
        sample : torch.Tensor, tuple or dict
            One sample, with its batch axis.
        composite : zennit.core.Composite
        concept_id : int
            The concept to decompose.
        layer_name : str
            Its layer.
        target : int or Contrast, optional
            The output, or the difference between outputs, at which relevance starts. Without it, relevance starts at
            ``parent_layer`` if given, else at ``layer_name``, with the layer's activation.
        width : list of int, default [4, 2]
            How many children a node gets in each of its input layers: at the first depth, the second, and so on.
        parent_c_id, parent_layer : optional
            A higher concept that relevance must have passed, too.
        abs_norm : bool, default True
            Divide the relevance of a layer's concepts by the sum of their absolute values.
        batch_size : int, default 16
        verbose : bool, default True
            Show a progress bar.

        Returns
        -------
        ConceptGraph
            ``nodes, connections``

        Raises
        ------
        ValueError
            If a layer is unknown, or only one of ``parent_c_id`` and ``parent_layer`` is given.
        """
        if (parent_c_id is None) != (parent_layer is None):
            raise ValueError("parent_c_id and parent_layer are given together or not at all")
        for layer in (layer_name, parent_layer):
            if layer is not None and layer not in self.layer_map:
                raise ValueError(f"layer_map: {unknown_layer_message(layer, self.layer_map)}")
        if any(count < 1 for count in width):
            raise ValueError(f"width holds the numbers of children, at least 1 each, not {width}")
        root = (layer_name, as_id(concept_id))
        base_condition: dict[str, Any] = {layer_name: [root[1]]}
        start_layer = None
        if parent_layer is not None:
            base_condition[parent_layer] = [as_id(parent_c_id)]
        if target is not None:
            base_condition[self.attribution.MODEL_OUTPUT_NAME] = target if isinstance(target, Contrast) else [target]
        else:
            start_layer = layer_name if parent_layer is None else parent_layer

        nodes: dict[Node, None] = {root: None}
        connections: dict[Node, list[tuple[str, int, float]]] = {}
        level = [root]
        for count in width:
            level = [node for node in level if self.graph.find_input_layers(node[0])]
            if not level:
                break
            conditions = [{**base_condition, layer: [concept]} for layer, concept in level]
            relevances = self._relevances(
                sample, composite, level, conditions, start_layer, abs_norm, batch_size, verbose
            )
            children: dict[Node, None] = {}
            for node, by_layer in zip(level, relevances):
                connections[node] = [edge for layer, values in by_layer.items() for edge in _top(layer, values, count)]
                children.update(((layer, concept), None) for layer, concept, _ in connections[node])
            level = [node for node in children if node not in nodes]
            nodes.update(dict.fromkeys(level))
        return ConceptGraph(list(nodes), connections)

    def _relevances(
        self, sample: Inputs, composite: Composite, level: list[Node], conditions: list[dict], start_layer: str | None,
        abs_norm: bool, batch_size: int, verbose: bool,
    ) -> list[dict[str, torch.Tensor]]:
        """For each node, the relevance [C] of the concepts in each of its input layers."""
        inputs = [self.graph.find_input_layers(layer) for layer, _ in level]
        record_layer = list(dict.fromkeys(layer for layers in inputs for layer in layers))
        mask_map = {layer: concept.mask for layer, concept in self.layer_map.items()}
        results = self.attribution.generate(
            sample, conditions, composite, record_layer, mask_map, start_layer, batch_size=batch_size,
            exclude_parallel=False, verbose=verbose, heatmap=False, record_conditions=False,
        )
        found: list[dict[str, torch.Tensor]] = []
        for result in results:
            values = {
                layer: call_as_taken(
                    self.layer_map[layer].attribute, result.relevances[layer],
                    mask=None, layer_name=layer, abs_norm=abs_norm,
                )
                for layer in record_layer
            }
            for row in range(len(result.prediction)):
                found.append({layer: values[layer][row] for layer in inputs[len(found)]})
        return found


def _top(layer: str, values: torch.Tensor, count: int) -> list[tuple[str, int, float]]:
    """The most positive concepts of a layer; on ties the lower id first."""
    order = torch.sort(values, descending=True, stable=True).indices[:count].tolist()
    return [(layer, concept, float(values[concept])) for concept in order]
