"""An answer with the numbers that travel beside it."""
from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Answered:
    """A document, and the numbers that travel beside it."""

    document: Any
    numbers: np.ndarray

    def to_bytes(self) -> bytes:
        """Both in one: the length of the document as int32, the document as JSON, filled up to 4, and float32."""
        text = self.document.model_dump_json().encode()
        text += b" " * (-len(text) % 4)
        return np.int32(len(text)).tobytes() + text + np.ascontiguousarray(self.numbers, "<f4").tobytes()


def read_answer(content: bytes) -> tuple[dict[str, Any], np.ndarray]:
    """What :meth:`Answered.to_bytes` wrote: the document, as JSON has it, and the numbers, flat."""
    length = int(np.frombuffer(content[:4], "<i4")[0])
    return json.loads(content[4:4 + length]), np.frombuffer(content[4 + length:], "<f4")
