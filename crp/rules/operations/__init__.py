"""Rules of relevance for functional operations, such as the addition of a residual block.

The rules follow AttnLRP (R. Achtibat et al., 2024, AttnLRP: Attention-aware layer-wise relevance propagation for
transformers, ICML), in which all operations of a transformer are one of: linear (each input gets the relevance of its
contribution), element by element (relevance passes), a product of activations (shared equally), or a softmax (its
Taylor expansion).

``rule``, ``call``                               what a rule is and how it runs; what the choice of one looks at
``elementwise``, ``sums``, ``products``, ``normalisation``   the rules by family, each with how it is chosen
``table``                                        which function has which
``composed``, ``attention``, ``modules``         functions as several simpler ones, or as a module with a rule
``mode``                                         sees the operations of a model while it runs
"""
