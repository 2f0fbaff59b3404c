"""An attribution graph of width [6, 4] from features.28 of VGG16, over zennit's bare passes for the same nodes."""
import torch
from common import deviation, photographs, ratio_row, time_in_turn, vgg16, zennit_pass
from torch import nn
from zennit.composites import EpsilonPlusFlat

from crp.attribution import AttributionGraph, CondAttribution
from crp.concepts import ChannelConcept
from crp.graph import trace_model_graph
from crp.helper import get_layer_names

LAYER, CONCEPT, TARGET, WIDTH = "features.28", 5, 7, [6, 4]


def main() -> None:
    """Measure and print the row."""
    model, composite = vgg16(), EpsilonPlusFlat()
    image = photographs(1)[:][0]
    concept = ChannelConcept()
    layer_map = {layer: concept for layer in get_layer_names(model, [nn.Conv2d])}
    attribution = CondAttribution(model)
    decompose = AttributionGraph(attribution, trace_model_graph(model, image, layer_map), layer_map)

    def ours():
        return decompose(image, composite, CONCEPT, LAYER, target=TARGET, width=WIDTH, verbose=False)

    def zennit():
        """A pass for the concept, and one for its children together."""
        for count in (1, WIDTH[0]):
            zennit_pass(model, composite, image.repeat_interleave(count, 0), [TARGET] * count)

    def expected_connections(nodes):
        """The relevance of the children of some nodes, by full passes of zennit's rules with our masks."""
        conditions = [{LAYER: [CONCEPT], **{layer: [channel]}, "y": [TARGET]} for layer, channel in nodes]
        slow = CondAttribution(model, accelerate=False)
        result = slow(image.repeat_interleave(len(nodes), 0), conditions, composite, list(layer_map),
                      exclude_parallel=False)
        return {layer: concept.attribute(relevance) for layer, relevance in result.relevances.items()}

    _, connections = ours()
    expected = expected_connections(list(connections))
    found, wanted = [], []
    for row, edges in enumerate(connections.values()):
        for layer, channel, relevance in edges:
            found.append(relevance)
            wanted.append(expected[layer][row, channel])
    assert len(found) == WIDTH[0] * (1 + WIDTH[1])
    error = deviation(torch.tensor(found), torch.stack(wanted))
    ratios, = time_in_turn(ours, zennit)
    ratio_row(f"attribution graph {WIDTH} from {LAYER}", "zennit's passes (batch 1, batch 6)", .08, ratios,
              error).print()


main()
