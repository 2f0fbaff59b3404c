"""Concept attribution for PyTorch: which concepts a network has learned, what they look like, what they contribute."""

from crp.model import installation as _installation  # noqa: F401 - which checks it

__version__ = "0.1.0"
