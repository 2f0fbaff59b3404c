"""What a model is called with: a tensor, a tuple or a dict; and the tensors in it that relevance can reach."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import nn

from crp.model.rows import copy_rows

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


@dataclass
class InputLeaf:
    """A tensor of the data, and where its relevance ends.

    Attributes
    ----------
    source : torch.Tensor
        The tensor of the data.
    tensors : list of torch.Tensor
        The leaves of autograd whose ``grad`` becomes the relevance: ``source`` itself, or for integers the output of
        each embedding that looks them up, with an attribute ``feature_axis``.
    """

    source: torch.Tensor
    tensors: list[torch.Tensor] = field(default_factory=list)

    @property
    def is_embedded(self) -> bool:
        """Whether the data are integers, such as token ids."""
        return not self.source.is_floating_point()

    @property
    def gradient(self) -> torch.Tensor | None:
        """What autograd left of the data itself, if relevance reaches it."""
        return self.tensors[0].grad if self.tensors and not self.is_embedded else None


@contextmanager
def input_leaves(model: nn.Module, data: Inputs, reach: bool = True) -> Iterator[tuple[Any, list[InputLeaf]]]:
    """Make model inputs into autograd leaves, for one forward pass within the context.

    Integers have no gradient: the output of the embedding that looks them up becomes the leaf. To be entered, and the
    model called, in :func:`gradient_mode`.

    Parameters
    ----------
    model : torch.nn.Module
    data : torch.Tensor, tuple or dict
    reach : bool, default True
        Whether relevance shall reach the data; otherwise nothing becomes a leaf.

    Yields
    ------
    data : tensor, tuple or dict
        To call the model with. It shares no memory with the caller's floating-point tensors.
    leaves : list of InputLeaf
        One per tensor of the data, in order.
    """
    leaves: list[InputLeaf] = []

    def add_leaf(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone() if tensor.is_inference() else tensor.detach()
        leaf = InputLeaf(tensor)
        leaves.append(leaf)
        if leaf.is_embedded:
            return tensor
        if reach:
            leaf.tensors.append(tensor.requires_grad_())
        return copy_rows(tensor)

    def end_at_embedding(
        module: nn.Module, args: tuple, kwargs: dict, output: torch.Tensor
    ) -> torch.Tensor | None:
        ids = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)
        for leaf in leaves:
            if ids is not None and leaf.is_embedded and _share_memory(leaf.source, ids):
                embedded = output.detach().requires_grad_()
                vars(embedded)["feature_axis"] = -1
                leaf.tensors.append(embedded)
                return embedded.clone()
        return None

    data = map_tensors(add_leaf, data)
    handles = [
        module.register_forward_hook(end_at_embedding, with_kwargs=True, prepend=True)
        for module in model.modules() if reach and isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    ]
    try:
        yield data, leaves
    finally:
        for handle in handles:
            handle.remove()


def _share_memory(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


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
