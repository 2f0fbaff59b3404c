"""Synthesis: optimised input images that drive a concept, a layer or an output as high as they can."""
from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from tqdm.auto import tqdm
from zennit.core import Composite
from zennit.rules import Pass

from crp.attribution.conditions import counted_from_the_front
from crp.attribution.sample_finder import SampleFinder
from crp.attribution.taps import LayerTaps
from crp.concepts import ChannelConcept, Concept, EncodedConcept, as_ids
from crp.model.inputs import device_of, gradient_mode
from crp.rules.acceleration import accelerate
from crp.rules.attach import freeze_parameters, registered, run_exclusively
from crp.rules.restoring import TensorState
from crp.store.reader import ReferenceStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Square root of the covariance of colours of natural images (ImageNet), as in Lucid (Olah et al., 2017).
_COLOURS = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])


WARM_UP = 16
_THROUGH_RELU = accelerate(Composite(lambda context, name, module: Pass() if isinstance(module, nn.ReLU) else None))


@dataclass(frozen=True)
class Synthesis:
    """Optimised images.

    Attributes
    ----------
    images : torch.Tensor
        [K, channels, H, W], in [0, 1], before ``preprocess_fn``.
    concepts : list of int or None
        The concept of each; None for the whole layer.
    activation : torch.Tensor
        [K], what each image reaches, without transforms: the concept's value (for channels the sum over positions).
    layer : str
    """

    images: torch.Tensor
    concepts: list[int | None]
    activation: torch.Tensor
    layer: str

    def best_samples(self, store: ReferenceStore) -> torch.Tensor:
        """[K], the largest value that each concept has in a sample of a store, to compare ``activation`` with."""
        concepts = [concept for concept in self.concepts if concept is not None]
        if len(concepts) < len(self.concepts):
            raise ValueError("the image is of a whole layer, and a store ranks samples by single concepts")
        return torch.tensor([
            float(store.top(self.layer, concept, "activation", 1, normalised=False).values[0]) for concept in concepts
        ])

    def plot(self, figsize: tuple[float, float] | None = None) -> Figure:
        """Draw the images side by side.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from crp.pictures.grids import GridRow, draw_grid
        from crp.pictures.image import imgify

        names = ["layer" if concept is None else f"{concept}" for concept in self.concepts]
        pictures = [imgify(image, cmap="gray", vmin=0, vmax=1) for image in self.images]
        rows = [GridRow(name, [[picture]]) for name, picture in zip(names, pictures)]
        return draw_grid(rows, figsize or (2.2, 1.5 * len(rows)))


def synthesize(
    model: nn.Module, layer: str, concepts: Any = None, *, size: tuple[int, int, int], concept: Concept | None = None,
    preprocess_fn: Callable | None = None, steps: int = 200, lr: float = 0.05, transform: bool = True,
    batch_size: int = 16, random_state: int | None = 0, verbose: bool = True,
) -> Synthesis:
    """Optimise images so that concepts of a layer become as active as they can (feature visualization).

    Images are made of Fourier coefficients, scaled by their frequency so that all are learned at the same pace, with
    decorrelated colours, and are shifted, scaled and rotated a little at random in each step, so that no pattern of
    single pixels can win. In the first 16 steps gradients pass nn.ReLU also where it gives zero, so that a concept
    which is silent at first can be reached.

    Parameters
    ----------
    model : torch.nn.Module
    layer : str
        Name of a module, such as that of the last linear layer for logits.
    concepts : int or list of int, optional
        One image each; without them, one image for the mean of the whole layer.
    size : (int, int, int)
        Channels, height and width of the images; 3 channels are colours.
    concept : Concept, optional
        How to read the layer; by default channels on axis 1.
    preprocess_fn : callable, optional
        From images [K, C, H, W] in [0, 1] to inputs of the model, such as a normalisation.
    steps : int, default 200
    lr : float, default 0.05
        Of Adam.
    transform : bool, default True
        Whether to shift, scale and rotate at random.
    batch_size : int, default 16
        Images at a time.
    random_state : int or None, default 0
    verbose : bool, default True
        Whether to show a progress bar.

    Returns
    -------
    Synthesis

    References
    ----------
    C. Olah, A. Mordvintsev, L. Schubert (2017). Feature Visualization. Distill. doi:10.23915/distill.00007
    """
    if len(size) != 3 or min(size) < 1:
        raise ValueError(f"size is (channels, height, width), not {size}")
    if steps < 1 or batch_size < 1 or lr <= 0:
        raise ValueError(f"steps, batch_size and lr are positive, not {steps}, {batch_size} and {lr}")
    ids: list[int | None] = [None] if concepts is None else [*as_ids(concepts)]
    if not ids:
        raise ValueError("concepts is empty: name at least one, or leave it out for the whole layer")
    concept, device = ChannelConcept() if concept is None else concept, device_of(model)
    preprocess_fn = preprocess_fn or (lambda images: images)
    generator = torch.Generator()  # on the CPU, so that it draws the same everywhere
    if random_state is None:
        generator.seed()
    else:
        generator.manual_seed(int(random_state))
    images, reached = [], []
    finder = SampleFinder(model)
    bar = tqdm(total=steps * math.ceil(len(ids) / batch_size), disable=not verbose, desc=f"images for {layer}")

    def optimise() -> None:
        freeze_parameters(model)
        for first in range(0, len(ids), batch_size):
            part = ids[first:first + batch_size]
            coefficients = _random_coefficients(len(part), size, generator).to(device).requires_grad_()
            optimizer = torch.optim.Adam([coefficients], lr=lr)
            for step in range(steps):
                optimizer.zero_grad()
                shown = to_images(coefficients, size)
                shown = random_transform(shown, generator) if transform else shown
                with registered(_THROUGH_RELU, model) if step < WARM_UP else nullcontext():
                    loss = -_read(finder, preprocess_fn(shown), layer, part, concept).sum()
                    loss.backward()
                optimizer.step()
                bar.update()
            with torch.no_grad():
                images.append(to_images(coefficients, size).cpu())
                reached.append(_read(finder, preprocess_fn(images[-1].to(device)), layer, part, concept).cpu())

    with bar, gradient_mode():
        run_exclusively(model, optimise, TensorState(model).restore)
    return Synthesis(torch.cat(images), ids, torch.cat(reached), layer)


def to_images(coefficients: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    """Images [K, C, H, W] in [0, 1] of Fourier coefficients [K, C, H, W // 2 + 1, 2]."""
    channels, height, width = size
    frequencies = torch.sqrt(torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width)[None] ** 2)
    scale = 1 / frequencies.clamp_min(1 / max(height, width)) * math.sqrt(height * width)
    spectrum = torch.view_as_complex(coefficients) * scale.to(coefficients.device)
    images = torch.fft.irfft2(spectrum, s=(height, width)) / 4
    if channels == 3:
        colours = (_COLOURS / _COLOURS.norm(dim=0).max()).to(images.device)
        images = torch.einsum("kchw,dc->kdhw", images, colours)
    return torch.sigmoid(images)


def random_transform(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift each image by up to an eighth of its extent, scale it by 0.9 to 1.1 and rotate it by up to 5 degrees."""
    count = len(images)
    shift, scale, angle = (torch.rand(count, n, generator=generator) * 2 - 1 for n in (2, 1, 1))
    scale, angle = 1 + 0.1 * scale[:, 0], math.radians(5) * angle[:, 0]
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    aspect = images.shape[-2] / images.shape[-1]  # coordinates go from -1 to 1 along both axes
    matrix = torch.stack([
        torch.stack([cos, -sin * aspect, shift[:, 0] / 4], 1), torch.stack([sin / aspect, cos, shift[:, 1] / 4], 1)
    ], 1).to(images)
    places = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, places, padding_mode="reflection", align_corners=False)


def _random_coefficients(count: int, size: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
    channels, height, width = size
    return 0.01 * torch.randn(count, channels, height, width // 2 + 1, 2, generator=generator)


def _read(finder: SampleFinder, data: Any, layer: str, ids: list[int | None], concept: Concept) -> torch.Tensor:
    """Value of a concept, or mean over all, in each row."""
    rows = finder.find([layer], data, counted_from_the_front({layer: concept}))
    with LayerTaps(finder.model, [layer], rows=rows) as taps:
        finder.model(data)
        if layer not in taps.outputs:
            raise ValueError(f"layer {layer!r} is not used in the forward pass of the model")
        tensor = taps.outputs[layer]
        values = concept.read(concept.code_of(tensor) if isinstance(concept, EncodedConcept) else tensor, layer).value
    count = values.shape[1]
    for i in ids:
        if i is not None and not -count <= i < count:
            raise IndexError(f"concept id {i} is out of range: those of layer {layer!r} are 0 to {count - 1}")
    return torch.stack([row.mean() if i is None else row[i] for row, i in zip(values, ids)])
