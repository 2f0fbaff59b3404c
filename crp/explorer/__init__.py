"""The analysis in a browser: offline, from a store, with the model where there is one.

``source``, ``opened``          a store and perhaps its model; the stores that are served
``documents``                   what is answered: the specification
``concept_pages``, ``sample_pages``, ``pattern_pages``, ``map_pages``, ``unit_pages``, ``text_pages``, ``summaries``
                                what a store says
``live``, ``worker``            what the model says, one thing after the other in the background
``pictures``, ``uploads``       pictures of samples and references; pictures that people bring
``keeping``, ``notes``          what is made once; what people write down
``routes``, ``server``, ``safety``, ``serving``
                                the server, and whom it answers
``export``, ``joining``, ``widget``
                                copies that open from disk; notebooks
``web``                         the pages
"""
