"""Arguments of references, checked."""
from __future__ import annotations

import operator
from typing import Any


def check_range(r_range: Any) -> tuple[int, int]:
    """The two integers of an ``r_range``; what is none raises a TypeError or ValueError."""
    try:
        first, stop = r_range
    except (TypeError, ValueError):
        raise TypeError(f"r_range is a pair of integers (first, stop), not {r_range!r}") from None
    if not (_is_integer(first) and _is_integer(stop)):
        raise TypeError(f"r_range is a pair of integers (first, stop), not {r_range!r}")
    first, stop = operator.index(first), operator.index(stop)
    if not 0 <= first < stop:
        raise ValueError(f"r_range is (first, stop) with 0 <= first < stop, not {r_range}")
    return first, stop


def _is_integer(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def check_count(name: str, count: Any) -> None:
    """Raise a TypeError or ValueError for what is no number of things."""
    if not _is_integer(count):
        raise TypeError(f"{name} is an integer, not {count!r}")
    if count < 1:
        raise ValueError(f"{name} is at least 1, not {count}")
