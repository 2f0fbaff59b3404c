"""Training that gives the same network each time."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def reproducible(random_state: int) -> Iterator[None]:
    """Seed torch within a context, and let one thread calculate: results do not depend on how many there are.

    The global generator and the number of threads are as before afterwards.
    """
    number = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(number)


def fit(
    parameters: Iterable[nn.Parameter], loss_of: Callable[[Tensor], Tensor], samples: int, *, epochs: int,
    batch_size: int = 64, learning_rate: float = 5e-3, weight_decay: float = 1e-2,
) -> None:
    """Train with AdamW, whose learning rate rises and falls in one cycle.

    Parameters
    ----------
    parameters : iterable of torch.nn.Parameter
    loss_of : callable
        ``numbers of samples [B] -> loss``
    samples : int
        How many there are.
    epochs, batch_size : int
    learning_rate : float
        The highest.
    weight_decay : float
    """
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, epochs * -(-samples // batch_size))
    for _ in range(epochs):
        for batch in torch.randperm(samples).split(batch_size):
            optimizer.zero_grad()
            loss_of(batch).backward()
            optimizer.step()
            schedule.step()
