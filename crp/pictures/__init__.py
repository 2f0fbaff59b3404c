"""Drawing: images, signals, text, grids, plots of results.

``image``, ``signals``, ``sound``, ``features``, ``video``, ``text``   pictures of inputs and heatmaps
``kinds``                                           which of them suits which input
``small_figures``                                   pictures that are small plots
``plotting``, ``squares``, ``grids``                figures that notebooks show, padded pictures, grids of pictures
``words``                                           shares in percent
``audit_plots``, ``graph_plots``, ``pattern_plots``, ``map_plots``   what results of that name draw themselves with

Users import ``crp.image`` and ``crp.text``. Nothing is imported here: most of this needs matplotlib.
"""
