"""Hooks that read and mask relevance at modules; the door to ``crp.attribution.taps``."""
from crp.attribution.taps import FeatVisHook, MaskHook
from crp.handed_on import HandedOn, names_of

__all__ = ["FeatVisHook", "MaskHook"]
__getattr__ = HandedOn(__name__, {
    **names_of("zennit.core", "RemovableHandle RemovableHandleList"), "functools": "functools", "torch": "torch",
    "weakref": "weakref",
})
__all__ += __getattr__.installed()
