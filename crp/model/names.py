"""Names of layers that do not exist, and those that come nearest."""
from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown_layer_message(layer: str, known: Iterable[str]) -> str:
    """Say that a layer does not exist and which names come nearest."""
    known = list(known)
    nearest = difflib.get_close_matches(layer, known, n=3, cutoff=0.5)
    if nearest:
        return f"no layer {layer!r}; did you mean " + " or ".join(repr(name) for name in nearest) + "?"
    shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return f"no layer {layer!r}; the model has: {shown or 'no named layers'}"
