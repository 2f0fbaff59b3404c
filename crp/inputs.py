"""What a model is called with: a tensor, a tuple or a dict; and the tensors in it that relevance can reach."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


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
    found = []
    map_tensors(found.append, data)
    return found


def count_samples(data: Any) -> int:
    """Length of the batch axis, which is the first axis of every tensor.

    Raises
    ------
    TypeError
        If the data is neither a tensor nor a tuple or dict with tensors.
    ValueError
        If the tensors differ in length or have no axis.
    """
    tensors = list_tensors(data)
    if not tensors:
        raise TypeError(
            f"data is a tensor, a tuple of tensors or a dict of them (keyword arguments), not {type(data).__name__}"
        )
    if any(tensor.ndim == 0 for tensor in tensors):
        raise ValueError("the first axis of data holds the samples, but a tensor without axes was given")
    lengths = {len(tensor) for tensor in tensors}
    if len(lengths) > 1:
        raise ValueError(f"the tensors in data differ in their number of samples: {sorted(lengths)}")
    if lengths == {0}:
        raise ValueError("data holds no sample")
    return lengths.pop()


def call_model(model: nn.Module, data: Any) -> Any:
    """Call a model with a tensor, a tuple (positional arguments) or a dict (keyword arguments)."""
    if isinstance(data, Mapping):
        return model(**data)
    if isinstance(data, (tuple, list)):
        return model(*data)
    return model(data)


@dataclass
class InputLeaf:
    """A tensor at which relevance ends.

    Attributes
    ----------
    source : torch.Tensor
        The tensor of the data: itself a leaf of autograd if it holds floating-point numbers.
    tensor : torch.Tensor or None
        The leaf whose ``grad`` becomes the relevance: ``source``, or for integers the output of their embedding.
    """

    source: torch.Tensor
    tensor: torch.Tensor | None = None

    @property
    def is_embedded(self) -> bool:
        """Whether the data are integers, such as token ids."""
        return not self.source.is_floating_point()


@contextmanager
def input_leaves(model: nn.Module, data: Any) -> Iterator[tuple[Any, list[InputLeaf]]]:
    """Make model inputs into autograd leaves, for one forward pass within the context.

    Integers have no gradient: the output of the embedding that looks them up becomes the leaf.

    Yields
    ------
    data : tensor, tuple or dict
        To call the model with. It shares no memory with the caller's floating-point tensors.
    leaves : list of InputLeaf
        One per tensor of the data, in order.
    """
    leaves = []

    def add_leaf(tensor):
        tensor = tensor.detach()
        leaf = InputLeaf(tensor)
        leaves.append(leaf)
        if leaf.is_embedded:
            return tensor
        leaf.tensor = tensor.requires_grad_()
        with torch.enable_grad():
            return tensor.clone()

    def end_at_embedding(module, args, kwargs, output):
        ids = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)
        leaf = _find_ids(leaves, ids)
        if leaf is None:
            return None
        leaf.tensor = output.detach().requires_grad_()
        return leaf.tensor.clone()

    data = map_tensors(add_leaf, data)
    handles = [
        module.register_forward_hook(end_at_embedding, with_kwargs=True, prepend=True)
        for module in model.modules() if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    ]
    try:
        yield data, leaves
    finally:
        for handle in handles:
            handle.remove()


def _find_ids(leaves: list[InputLeaf], ids: torch.Tensor | None) -> InputLeaf | None:
    """The integer input that an embedding looks up: the same memory, else the same numbers."""
    if ids is None:
        return None
    waiting = [leaf for leaf in leaves if leaf.is_embedded and leaf.tensor is None]
    for leaf in waiting:
        if leaf.source.untyped_storage().data_ptr() == ids.untyped_storage().data_ptr():
            return leaf
    for leaf in waiting:
        if leaf.source.numel() == ids.numel() and torch.equal(leaf.source.reshape(-1).long(), ids.reshape(-1).long()):
            return leaf
    return None
