"""Whether the files of this package are all its own: zennit-crp installs into the same folder."""
from __future__ import annotations

import os

_FOLDER = os.path.dirname(os.path.dirname(__file__))
_OF_ZENNIT_CRP = "attribution.py", "concepts.py", "visualization.py"  # which are packages here
_REPLACED_BY_IT = "__init__.py", "cache.py", "graph.py", "helper.py", "hooks.py", "image.py"


def check_installation(folder: str = _FOLDER) -> None:
    """Raise an ImportError if zennit-crp has been installed over this package, or uninstalled with files of it."""
    if any(os.path.exists(os.path.join(folder, name)) for name in _OF_ZENNIT_CRP):
        found = "zennit-crp and crp-concepts are installed together, and both are called crp"
    elif not all(os.path.exists(os.path.join(folder, name)) for name in _REPLACED_BY_IT):
        found = "files of crp-concepts are missing, as after zennit-crp was uninstalled, which is also called crp"
    else:
        return
    raise ImportError(f"{folder}: {found}. pip uninstall both, then install crp-concepts again")


check_installation()
