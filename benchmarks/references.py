"""Reference heatmaps of VGG16, 8 concepts x 8 samples at features.21, over zennit's bare passes on the same samples."""
import tempfile

import torch
from common import deviation, photographs, ratio_row, time_in_turn, vgg16
from torch.utils.data import TensorDataset
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.visualization import FeatureVisualization

LAYER, CONCEPTS, BATCH, SAMPLES = "features.21", list(range(8)), 16, 64


def main() -> None:
    """Measure and print the row."""
    model, composite, dataset = vgg16(), EpsilonPlusFlat(), photographs(SAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        visualization = FeatureVisualization(
            CondAttribution(model), dataset, {LAYER: ChannelConcept()}, path=folder
        )
        store = visualization.run(composite, 0, SAMPLES, batch_size=8)
        print(compare(model, composite, dataset, visualization, store))


def compare(model, composite, dataset: TensorDataset, visualization: FeatureVisualization, store) -> str:
    """Measure and print the row; tell how many samples serve the concepts."""
    samples = [int(sample) for concept in CONCEPTS for sample in store.top(LAYER, concept).samples]
    channels = [concept for concept in CONCEPTS for _ in range(8)]

    def ours():
        references = visualization.get_max_reference(
            CONCEPTS, LAYER, "relevance", (0, 8), composite, plot_fn=None, batch_size=BATCH
        )
        return torch.cat([heatmaps for _, heatmaps in references.values()])

    def zennit():
        """A pass for each 16 of the 64 samples, relevance starting with one channel's activation."""
        heatmaps = []
        for first in range(0, len(samples), BATCH):
            kept = {}
            images = dataset[samples[first:first + BATCH]][0].requires_grad_()
            with composite.context(model):
                handle = model.get_submodule(LAYER).register_forward_hook(
                    lambda module, args, output, kept=kept: kept.update(output=output, value=output.detach().clone())
                )
                model(images)
                handle.remove()
                relevance = torch.zeros_like(kept["value"])
                part = range(len(images)), channels[first:first + BATCH]
                relevance[part] = kept["value"][part]
                heatmaps.append(torch.autograd.grad(kept["output"], images, relevance)[0].sum(1))
        return torch.cat(heatmaps)

    error = deviation(ours(), zennit())
    ratios, = time_in_turn(ours, zennit, repeats=2)
    ratio_row(f"get_max_reference, 8 concepts x 8, {LAYER}", "zennit's passes", .40, ratios, error).print()
    return f"the 64 references are {len(set(samples))} different samples of {len(dataset)}"


main()
