"""A sweep of all 16 layers of VGG16, over its own accelerated LRP pass through the same images."""
from common import photographs, sweep_row, vgg16
from torch import nn

from crp.helper import get_layer_names


def main() -> None:
    """Measure and print the row."""
    model, dataset = vgg16(), photographs(128)
    layers = get_layer_names(model, [nn.Conv2d, nn.Linear])
    sweep_row(
        "sweep of VGG16's 16 layers", model, dataset, layers, batch_size=8, reach=1.06, repeats=3, accelerated=True
    ).print()


main()
