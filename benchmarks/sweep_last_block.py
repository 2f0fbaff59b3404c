"""A sweep that records the last block of VGG16, over full passes of zennit's rules through the same images."""
from common import photographs, sweep_row, vgg16

LAYERS = ["features.24", "features.26", "features.28"]


def main() -> None:
    """Measure and print the row."""
    model, dataset = vgg16(), photographs(64)
    sweep_row("sweep of VGG16's last block", model, dataset, LAYERS, batch_size=8, reach=.21, repeats=3).print()


main()
