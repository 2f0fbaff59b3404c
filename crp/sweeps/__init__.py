"""One pass over a dataset, from samples to a store.

``sweep``                                  the pass, shard by shard
``loading``, ``batches``                   samples as batches; batches as rows, and what is kept of them
``starts``                                 at which outputs relevance starts
``workers``                                shards computed by the workers of an executor
``describe``, ``rule_fingerprint``         what a store was made from
``model_fingerprint``, ``model_answers``   and of which model

``visualization`` and ``cli`` take :class:`Sweep`, :class:`Batch` and :class:`Workers`.
"""
from crp.sweeps.batches import Batch
from crp.sweeps.sweep import Sweep
from crp.sweeps.workers import Workers

__all__ = ["Batch", "Sweep", "Workers"]
