"""What a model and its data look like, to everything above: leaves of the house, which know nothing of relevance.

``layers``   addresses of layers (``name``, ``name:in``, ``name:1``) and the tensors in what a module takes and returns
``inputs``   what a model is called with: tensors, tuples, dicts, token ids
``samples``  the items of a dataset as inputs of a model
``rows``     batches whose rows are one and the same memory
"""
