"""A heatmap of VGG16 (224 px, batch 8): our pass over zennit's, and over a plain forward and backward pass."""
import torch
from common import deviation, photographs, ratio_row, time_in_turn, vgg16, zennit_pass
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution

BATCH = 8


def main() -> None:
    """Measure and print both rows."""
    model, composite = vgg16(), EpsilonPlusFlat()
    images = photographs(BATCH)[:][0]
    targets = list(range(BATCH))
    attribution = CondAttribution(model)

    def ours():
        return attribution(images, [{"y": [target]} for target in targets], composite).heatmap

    def zennit():
        return zennit_pass(model, composite, images, targets)[0].sum(1)

    def plain():
        leaf = images.detach().requires_grad_()
        output = model(leaf)
        return torch.autograd.grad(output[range(BATCH), targets].sum(), leaf)

    plain()
    error = deviation(ours(), zennit())
    over_zennit, over_plain = time_in_turn(ours, zennit, plain, repeats=9)
    ratio_row("LRP pass, VGG16, batch 8", "zennit's pass", .43, over_zennit, error).print()
    ratio_row("LRP pass, VGG16, batch 8", "plain forward + backward", 1.35, over_plain, error).print()


main()
