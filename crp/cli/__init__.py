"""The command line: ``crp`` or ``python -m crp``.

``command_line``            arguments and what is printed
``runs``, ``reports``       what the commands do that sweep and that draw
``questions``               what a store answers
``answers``, ``concept_answers``
                            the answers, in words and as JSON
``specs``                   what to sweep, told by a function
``terminal``                how text gets there
"""
from crp.cli.command_line import main

__all__ = ["main"]
