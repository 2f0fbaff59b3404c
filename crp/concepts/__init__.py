"""What a concept is: a way to read a layer and a way to mask it."""
from crp.concepts.base import Concept, Reading, as_id, as_ids, check_max_target, normalise
from crp.concepts.channels import ChannelConcept, ChannelMask
from crp.concepts.encoded import DirectionConcept, EncodedConcept
from crp.concepts.heads import HeadConcept
from crp.concepts.layer_map import as_layer_map
from crp.concepts.profiles import ProfileConcept, aggregate

__all__ = [
    "ChannelConcept", "ChannelMask", "Concept", "DirectionConcept", "EncodedConcept", "HeadConcept", "ProfileConcept",
    "Reading", "aggregate", "as_id", "as_ids", "as_layer_map", "check_max_target", "normalise",
]
