"""Numbers in words of pictures and of the command line."""
from __future__ import annotations


def percent(part: float) -> str:
    """A share in percent: whole from ten on, two digits below."""
    part = 100 * part + 0.  # no minus zero
    return f"{part:.0f}%" if abs(part) >= 9.95 else f"{part:.2g}%"
