"""What a concept is: a way to read a layer and a way to mask it.

``base``, ``ids``, ``layer_map``    the interface, and what names concepts
``channels``, ``heads``, ``encoded``, ``profiles``    kinds of concepts
``padding``                         any concept, read at the positions that count
"""
from crp.concepts.base import Concept, Reading, check_max_target, normalise
from crp.concepts.channels import ChannelConcept, ChannelMask
from crp.concepts.encoded import DirectionConcept, EncodedConcept
from crp.concepts.heads import HeadConcept
from crp.concepts.ids import as_id, as_ids
from crp.concepts.layer_map import as_layer_map
from crp.concepts.profiles import ProfileConcept, aggregate
from crp.handed_on import HandedOn, names_of

__all__ = [
    "ChannelConcept", "ChannelMask", "Concept", "DirectionConcept", "EncodedConcept", "HeadConcept", "ProfileConcept",
    "Reading", "aggregate", "as_id", "as_ids", "as_layer_map", "check_max_target", "normalise",
]
__getattr__ = HandedOn(__name__, {**names_of("typing", "Dict List"), "np": "numpy", "torch": "torch"})
__all__ += __getattr__.installed()
