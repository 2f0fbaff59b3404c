"""Inputs and targets in batches, from whatever holds them."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from crp.model.inputs import count_samples, map_tensors
from crp.model.samples import iterate_items, join_samples, split_item, with_batch_axis


class LabelledBatches:
    """Inputs and targets in batches, each time anew."""

    def __init__(self, data: Any, batch_size: int, device: torch.device):
        if batch_size < 1:
            raise ValueError(f"batch_size is at least 1, not {batch_size}")
        self.data, self.batch_size, self.device = data, batch_size, device
        if isinstance(data, tuple) and len(data) == 2:
            samples = count_samples(data[0])
            if len(data[1]) != samples:
                raise ValueError(f"there are {samples} samples, but {len(data[1])} targets")
        elif isinstance(data, DataLoader):
            if isinstance(data.dataset, IterableDataset):
                raise TypeError("data is read several times, which a stream cannot be: give its samples as tensors")
            samples = len(data) * (data.batch_size or 1)
        elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Tensor):
            samples = len(data)
        else:
            raise TypeError(
                f"data is (inputs, targets), a dataset or a DataLoader of such pairs, not a {type(data).__name__}"
            )
        self.count = -(-samples // (data.batch_size or 1 if isinstance(data, DataLoader) else batch_size))

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        for inputs, targets in self._on_any_device():
            yield map_tensors(lambda tensor: tensor.to(self.device), inputs), targets.to(self.device)

    def _on_any_device(self) -> Iterator[tuple[Any, Tensor]]:
        data, size = self.data, self.batch_size
        if isinstance(data, DataLoader):
            for batch in data:
                inputs, targets = split_item(batch)
                yield inputs, torch.as_tensor(targets)
        elif isinstance(data, tuple):
            targets = torch.as_tensor(data[1])
            for first in range(0, len(targets), size):
                part = slice(first, first + size)
                yield map_tensors(lambda tensor: tensor[part], data[0]), targets[part]
        else:
            first = 0
            for items in iterate_items(data, size):
                pairs = [split_item(item) for item in items]
                numbers = list(range(first, first + len(pairs)))
                first += len(pairs)
                yield (
                    join_samples([with_batch_axis(inputs) for inputs, _ in pairs], numbers),
                    torch.as_tensor(np.array([np.asarray(target) for _, target in pairs])),
                )
