"""The analysis in a browser: offline, from a store, with the model where there is one.

``source``, ``opened``          a store and perhaps its model; the stores that are served
``documents``                   what is answered: the specification
``concept_pages``, ``sample_pages``, ``pattern_pages``, ``map_pages``, ``unit_pages``, ``text_pages``
``summaries``, ``portraits``
                                what a store says
``live``, ``worker``, ``apart`` what the model says, and work on the store, one thing after the other in the background
``pictures``, ``uploads``       pictures of samples and references; pictures that people bring
``keeping``, ``notes``          what is made once; what people write down
``routes``, ``server``, ``safety``, ``serving``
                                the server, and whom it answers
``copies``, ``joining``, ``widget``, ``asking``
                                copies that open from disk; notebooks
``web``                         the pages
"""
from importlib import import_module
from typing import Any

__all__ = ["Explorer", "Source", "export", "export_page", "serve"]

_PLACES = {
    "Explorer": ("widget", "notebook"), "Source": ("source", "explorer"), "export": ("copies", "explorer"),
    "export_page": ("copies", "explorer"), "serve": ("serving", "explorer"),
}


def __getattr__(name: str) -> Any:
    """What needs packages of an extra is imported when it is asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, extra = _PLACES[name]
    try:
        return getattr(import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"{name} needs {error.name}: pip install 'crp-concepts[{extra}]'") from error
