"""A small network on real handwritten digits, explained from start to end: ``crp demo``."""
