"""Concept attribution for PyTorch: which concepts a network has learned, what they look like, what they contribute."""

__version__ = "0.1.0"
