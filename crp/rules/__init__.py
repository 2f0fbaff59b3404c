"""How relevance flows through a module, an operation, a model.

``composites``                                   presets of rules
``acceleration``, ``fast_rules``, ``linear``     rules that equal zennit's and compute less
``operations``                                   rules for functional operations
``batch_norms``                                  batch norms, merged into the layers that feed them
``attach``, ``model_rules``                      rules on a model, for a call or several

Others take :func:`accelerate`, :func:`register_rule` and what ``composites`` has; ``attribution`` takes ``ModelRules``
and ``OperationMode``.
"""
from crp.rules.acceleration import accelerate
from crp.rules.operations.registration import register_rule

__all__ = ["accelerate", "register_rule"]
