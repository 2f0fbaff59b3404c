"""What a model answers to an input, and where relevance starts to explain that."""
from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from crp.attribution import Contrast
from crp.explorer.documents import Output
from crp.explorer.source import NotThereError, Source
from crp.model.inputs import call_model, list_tensors
from crp.model.layers import select_output

MOST_OUTPUTS = 10


def answers(
    source: Source, data: Any, target: int | None, against: int | None = None
) -> tuple[list[Output], int, dict[str, Any]]:
    """The largest outputs of the model, which to explain, and the condition that starts relevance there.

    Parameters
    ----------
    target, against : int, optional
        The output to explain, by default the largest; and another one, against which it is explained. Of models with
        several positions, at the last one.

    Raises
    ------
    NotThereError
        If the model has no such output.
    """
    output = output_of(source, data)
    found = outputs_of(source, last_of(output))
    target = found[0].target if target is None else target
    return found, target, _start_at(source, output.shape, target, against)


def outputs(source: Source, data: Any, first: list[int] | None = None) -> list[Output]:
    """The largest outputs of the model, or those asked for, with their probabilities where they are classes."""
    return outputs_of(source, last_of(output_of(source, data)), first)


def last_of(output: Tensor) -> Tensor:
    """[classes], of the first input; at the last position of models with several."""
    return output.detach().float().cpu()[0].reshape(-1, output.shape[-1])[-1]


def output_of(source: Source, data: Any) -> Tensor:
    """What the model gives for an input: [1, classes], or with axes of positions between."""
    fv, _ = source.need_model()
    with torch.no_grad():
        return select_output(call_model(fv.attribution.model, data), fv.attribution.output, "y")


def outputs_of(source: Source, values: Tensor, first: list[int] | None = None) -> list[Output]:
    """Outputs [classes] as a page shows them, the largest first."""
    probabilities = torch.softmax(values.double(), 0) if len(values) > 1 else torch.full_like(values, float("nan"))
    order = values.argsort(descending=True, stable=True)[:MOST_OUTPUTS].tolist() if first is None else first
    corpus = source.corpus
    generates = corpus is not None and len(values) >= len(corpus.tokenizer)
    names = corpus.tokenizer.convert_ids_to_tokens(order) if corpus is not None and generates else [
        source.class_name(i) for i in order
    ]
    return [
        Output(target=i, name=str(name), value=values[i].item(), probability=probabilities[i].item())
        for i, name in zip(order, names)
    ]


def _start_at(source: Source, shape: torch.Size, target: int, against: int | None) -> dict[str, Any]:
    fv, _ = source.need_model()
    for output in (target, against):
        if output is not None and not 0 <= output < shape[-1]:
            raise NotThereError(f"the model has no output {output}; it has 0 to {shape[-1] - 1}")
    found = [output if len(shape) == 2 else (-1,) * (len(shape) - 2) + (output,) for output in (target, against)]
    y = [found[0]] if against is None else Contrast(found[0], found[1])
    return {fv.attribution.MODEL_OUTPUT_NAME: y}


def as_picture(heatmap: Any) -> np.ndarray:
    """[height, width]: a heatmap of one input, of which channels are summed; of inputs of other forms in one row."""
    found = list_tensors(heatmap)[0][0].detach().float().cpu().numpy()
    if found.ndim >= 3:
        found = found.reshape(-1, *found.shape[-2:]).sum(0)
    return found if found.ndim == 2 else found.reshape(1, -1)
