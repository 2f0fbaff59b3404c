"""What a model is called with: a tensor, a tuple or a dict; and the tensors in it that relevance can reach."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import nn

Inputs: TypeAlias = torch.Tensor | tuple[Any, ...] | Mapping[str, Any]


def map_tensors(function: Callable[[torch.Tensor], Any], data: Any) -> Any:
    """Apply a function to the tensors of model inputs; other values stay as they are."""
    if isinstance(data, torch.Tensor):
        return function(data)
    if isinstance(data, Mapping):
        return {key: map_tensors(function, value) for key, value in data.items()}
    if isinstance(data, (tuple, list)):
        return tuple(map_tensors(function, value) for value in data)
    return data


def list_tensors(data: Any) -> list[torch.Tensor]:
    """The tensors of model inputs, in order."""
    found: list[torch.Tensor] = []
    map_tensors(found.append, data)
    return found


def count_samples(data: Any) -> int:
    """Length of the batch axis, which is the first axis of every tensor.

    Raises
    ------
    TypeError
        If the data is neither a tensor nor a tuple or dict with tensors, or holds complex numbers.
    ValueError
        If the tensors differ in length or have no axis.
    """
    tensors = list_tensors(data)
    if not tensors:
        raise TypeError(
            f"data is a tensor (for arrays: torch.from_numpy), a tuple or a dict of tensors, not {type(data).__name__}"
        )
    if any(tensor.is_complex() for tensor in tensors):
        raise TypeError("data is complex: give its parts (torch.view_as_real) to a model that joins them")
    if any(tensor.ndim == 0 for tensor in tensors):
        raise ValueError("the first axis of data holds the samples, but a tensor without axes was given")
    lengths = {len(tensor) for tensor in tensors}
    if len(lengths) > 1:
        raise ValueError(f"the tensors in data differ in their number of samples: {sorted(lengths)}")
    if lengths == {0}:
        raise ValueError("data holds no sample")
    return lengths.pop()


def device_of(model: nn.Module) -> torch.device:
    """Device of a model's first parameter or buffer; the CPU without any."""
    tensor = next(iter([*model.parameters(), *model.buffers()]), None)
    return torch.device("cpu") if tensor is None else tensor.device


def call_model(model: nn.Module, data: Inputs) -> Any:
    """Call a model with a tensor, a tuple (positional arguments) or a dict (keyword arguments)."""
    if isinstance(data, Mapping):
        return model(**data)
    if isinstance(data, (tuple, list)):
        return model(*data)
    return model(data)


def copied_inputs(data: Inputs, device: torch.device) -> Any:
    """Data on a device without gradients, in memory of their own: models may write to them."""
    return map_tensors(lambda tensor: tensor.detach().to(device, copy=True), data)


def prepare_inputs(data: Inputs, device: torch.device) -> Any:
    """Data on a device, with gradients where they are possible; to be called in :func:`gradient_mode`."""
    count_samples(data)

    def prepare(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.to(device)
        if tensor.is_floating_point() and not tensor.requires_grad:
            tensor = (tensor.clone() if tensor.is_inference() else tensor.detach()).requires_grad_()
        return tensor

    return map_tensors(prepare, data)


@contextmanager
def gradient_mode() -> Iterator[None]:
    """Record gradients, whatever the caller's mode is."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def leave_gradients(
    caller_data: Inputs, data: Inputs, gradients: Sequence[torch.Tensor | None], *, overwrite: bool
) -> None:
    """Leave gradients as ``.grad`` of a caller's data, from which ``data`` were made, as autograd would.

    Parameters
    ----------
    caller_data, data : torch.Tensor, tuple or dict
    gradients : sequence
        Of each tensor of ``data``; None where there is none.
    overwrite : bool
        Replace gradients that the caller's data have, instead of adding to them.
    """
    tensors = [tensor for tensor in list_tensors(caller_data) if tensor.requires_grad]
    if not tensors:
        return
    for tensor in tensors:
        if overwrite and tensor.is_leaf:
            tensor.grad = None
    reached = [(t, g) for t, g in zip(list_tensors(data), gradients) if g is not None and t.requires_grad]
    torch.autograd.backward([tensor for tensor, _ in reached], [gradient for _, gradient in reached])
