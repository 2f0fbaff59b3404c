"""64 conditions on one image, at features.21 of VGG16: ``generate`` over bare passes of zennit's rules and masks."""
import torch
from common import at_targets, deviation, photographs, ratio_row, time_in_turn, vgg16
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution

LAYER, CONDITIONS, BATCH, TARGET = "features.21", 64, 16, 7


def main() -> None:
    """Measure and print the row."""
    model, composite = vgg16(), EpsilonPlusFlat()
    image = photographs(1)[:][0]
    attribution = CondAttribution(model)
    conditions = [{LAYER: [channel], "y": [TARGET]} for channel in range(CONDITIONS)]

    def ours():
        results = attribution.generate(image, conditions, composite, batch_size=BATCH, verbose=False)
        return torch.cat([result.heatmap for result in results])

    def zennit():
        """One forward pass of 16 equal images, and a backward pass for each 16 conditions."""
        channels, heatmaps = [], []

        def keep_channels(relevance):
            kept = torch.zeros_like(relevance)
            kept[range(BATCH), channels] = relevance[range(BATCH), channels]
            return kept

        images = image.repeat_interleave(BATCH, 0).requires_grad_()
        with composite.context(model):
            handle = model.get_submodule(LAYER).register_forward_hook(
                lambda module, args, output: output.register_hook(keep_channels) and None
            )
            output = model(images)
            handle.remove()
            for first in range(0, CONDITIONS, BATCH):
                channels[:] = range(first, first + BATCH)
                relevance = at_targets(output, [TARGET] * BATCH)
                heatmaps.append(torch.autograd.grad(output, images, relevance, retain_graph=True)[0].sum(1))
        return torch.cat(heatmaps)

    error = deviation(ours(), zennit())
    ratios, = time_in_turn(ours, zennit, repeats=3)
    ratio_row(f"generate, {CONDITIONS} conditions, {LAYER}", "zennit's passes (1 forward, 4 backward)", .15, ratios,
              error).print()


main()
