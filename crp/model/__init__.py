"""What a model and its data look like, to everything above: leaves of the house, which know nothing of relevance.

``layers``   addresses of layers (``name``, ``name:in``, ``name:1``) and the tensors in what a module takes and returns
``inputs``   what a model is called with: tensors, tuples, dicts, token ids
``samples``  the items of a dataset as inputs of a model
``shapes``   what is wrong with the shape of data that a model cannot be run on
``training`` modules that do something else in training
``corpus``   texts with the words of their tokens
``edits``    changes to what layers give, for a while
``names``    names of layers, and those that come nearest
``numbers``  numbers of samples
``frames``   tables of pandas
``arrays``   arrays from tensors, tables and lists
``rows``     batches whose rows are one and the same memory
``successors``    classes in the place of zennit-crp's
``installation``  whether zennit-crp's files lie among these
"""
from crp.model import installation as _installation  # noqa: F401 - which checks it
