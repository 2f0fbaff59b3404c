"""Peak memory of a process that sweeps all 16 layers of VGG16 (batch 8), the model itself included."""
import tempfile

from common import Row, deviation, peak_memory, photographs, vgg16, zennit_pass
from torch import nn
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.helper import get_layer_names
from crp.visualization import FeatureVisualization


def main() -> None:
    """Measure and print the row."""
    model, composite, dataset = vgg16(), EpsilonPlusFlat(), photographs(32)
    layers = get_layer_names(model, [nn.Conv2d, nn.Linear])
    at_first = peak_memory()
    with tempfile.TemporaryDirectory() as folder:
        visualization = FeatureVisualization(
            CondAttribution(model), dataset, {layer: ChannelConcept() for layer in layers}, path=folder
        )
        store = visualization.run(composite, 0, len(dataset), batch_size=8)
        of_sweep = peak_memory()
        images, targets = dataset[:8]
        _, relevances = zennit_pass(model, composite, images, targets, layers)
        error = max(
            deviation(store.values(layer)[:8], ChannelConcept().read(relevance).value)
            for layer, relevance in relevances.items()
        )
    print(f"with the model and the images alone: {at_first:.2f} GB; after a pass of zennit's: {peak_memory():.2f} GB")
    added = of_sweep - at_first
    Row(
        "peak memory, sweep of VGG16's 16 layers, batch 8", "", of_sweep, 2.3, (of_sweep, of_sweep), "GB", error
    ).print()
    # to reach: 2.3 GB less the 0.87 GB of a process with the model and a PyTorch without CUDA libraries
    Row("the same: what the sweep adds", "", added, 1.43, (added, added), "GB", error).print()


main()
