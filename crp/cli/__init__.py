"""The command line: ``crp`` or ``python -m crp``.

``command_line``            arguments and what is printed
``runs``, ``reports``       what the commands do
``specs``                   what to sweep, told by a function
``terminal``                how text gets there
"""
from crp.cli.command_line import main

__all__ = ["main"]
