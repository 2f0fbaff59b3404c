"""Datasets that can only be read from the start, as sequences of samples."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


class Stream:
    """The first samples of a dataset that can only be read from the start, such as an ``IterableDataset``.

    Samples in order are read once. Asked for an earlier one, it begins anew, so that the dataset has to give the same
    samples in the same order each time: no shuffling. Sweeps tell if it does not.

    Parameters
    ----------
    dataset : iterable
        An ``IterableDataset``, a ``webdataset`` pipeline, a streamed dataset of Hugging Face.
    length : int
        How many of its samples there are, or shall be swept.

    Examples
    --------
    >>> from crp.visualization import Stream
    >>> samples = Stream((number * number for number in range(10)), 4)
    >>> len(samples), samples[2]
    (4, 4)
    """

    def __init__(self, dataset: Iterable[Any], length: int):
        if not hasattr(dataset, "__iter__"):
            raise TypeError(f"a Stream is of what can be iterated, not of a {type(dataset).__name__}")
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise ValueError(f"length is the number of samples, at least 1, not {length!r}")
        self.dataset, self.length = dataset, length
        self._begin()

    def _begin(self) -> None:
        self._iterator: Iterator[Any] | None = None
        self._read, self._last = 0, None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if not -self.length <= index < self.length:
            raise IndexError(f"there is no sample {index} in a stream of {self.length}")
        index %= self.length
        if index < self._read - 1:
            self._begin()
        if self._iterator is None:
            self._iterator = iter(self.dataset)
        while self._read <= index:
            try:
                self._last = next(self._iterator)
            except StopIteration:
                read = self._read
                self._begin()
                raise IndexError(f"the stream ends after {read} samples, but its length is {self.length}") from None
            self._read += 1
        return self._last

    def __getstate__(self) -> dict[str, Any]:
        """Without the place that it has been read to."""
        return {"dataset": self.dataset, "length": self.length}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()
