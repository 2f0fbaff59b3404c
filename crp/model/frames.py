"""Tables of pandas, an extra."""
from __future__ import annotations

from typing import Any


def import_pandas() -> Any:
    """The module; an ImportError says how to install it."""
    try:
        import pandas
    except ImportError:
        raise ImportError("to_frame needs pandas: pip install 'crp-concepts[pandas]'") from None
    return pandas
