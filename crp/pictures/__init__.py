"""Drawing: images, signals, text, grids, plots of results; and the cache that keeps pictures of references.

``image``, ``signals``, ``text``                    pictures of inputs and heatmaps
``plotting``                                        figures that notebooks show, and grids of pictures
``audit_plots``, ``graph_plots``, ``pattern_plots``, ``map_plots``   what results of that name draw themselves with
``cache``                                           pictures on the disk

Users import ``crp.image``, ``crp.text`` and ``crp.cache``. Nothing is imported here: most of this needs matplotlib.
"""
