"""Drawing: images, signals, text, grids, plots of results.

``image``, ``signals``, ``text``                    pictures of inputs and heatmaps
``plotting``                                        figures that notebooks show, and grids of pictures
``audit_plots``, ``graph_plots``, ``pattern_plots``, ``map_plots``   what results of that name draw themselves with

Users import ``crp.image`` and ``crp.text``. Nothing is imported here: most of this needs matplotlib.
"""
