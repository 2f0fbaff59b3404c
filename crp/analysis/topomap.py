"""Maps of layers: similar channels lie side by side, and colours show what groups of samples do to them."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from scipy.spatial.distance import cdist

from crp.analysis.layouts import check_method, grid, interpolate, project, scale_to_unit
from crp.analysis.map_quality import MapQuality, measure
from crp.analysis.neural_response_map import NeuralResponseMap
from crp.analysis.profiles import GroupProfiles
from crp.analysis.response_map import ResponseMap
from crp.analysis.spreading import check_spread, spread_points
from crp.model.arrays import as_array, as_float_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NeuralResponseMap", "ResponseMap", "TopographicMap", "plot_projection", "project"]


class TopographicMap:
    """A layout of the channels of a layer, on which profiles of groups are drawn.

    Parameters
    ----------
    method : {"tsne", "umap", "pca"}, default "tsne"
        How channels with similar profiles come to lie side by side. UMAP needs ``pip install crp-concepts[umap]``.
    spread : {"even", "apart", False}, default "even"
        How channels are moved so that none hides another. "even" spreads them over a disc, neighbours by profile side
        by side; "apart" leaves the layout as it is but for overlaps; False leaves them in. No two channels are nearer
        to each other than 0.7 ("even") or half ("apart") of the distance that they would have in a hexagonal grid that
        fills the disc. True means "even".
    random_state : int or None, default 0
        Of t-SNE and UMAP.

    Attributes
    ----------
    coordinates : numpy.ndarray
        [C, 2], in [0, 1]; after :meth:`fit`.

    Notes
    -----
    Both spreads need memory for some [C, C] matrices. Neither is random.

    References
    ----------
    A. Krug, R. K. Ratul, C. Olson, S. Stober (2023). Visualizing Deep Neural Networks with Topographic Activation Maps.
    HHAI 2023.
    """

    def __init__(
        self, method: str = "tsne", spread: Literal["even", "apart"] | bool = "even", random_state: int | None = 0
    ):
        check_method(method)
        self.method, self.spread, self.random_state = method, check_spread(spread), random_state

    def __repr__(self) -> str:
        return f"TopographicMap({self.method!r}, spread={self.spread!r}, random_state={self.random_state})"

    def fit(self, profiles: Any, layer: str | None = None) -> TopographicMap:
        """Lay out the channels of a layer.

        Parameters
        ----------
        profiles : GroupProfiles or array-like
            [G, C] or [G, C, positions...]; positions at which no channel does anything are left out.
        layer : str, optional
            Which layer of ``GroupProfiles``; not needed if there is only one.

        Returns
        -------
        TopographicMap
            Itself.
        """
        self.profiles_, self.layer_ = profiles, layer
        values = self._of_layer(profiles, layer)
        if not np.isfinite(values).all():
            raise ValueError("the profiles hold NaN or infinite numbers")
        channels = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
        strength = np.abs(channels).max(0)
        channels = channels[:, strength >= 1e-6 * strength.max()]
        points = project(channels, self.method, random_state=self.random_state)
        self._distances, self._unspread = cdist(channels, channels), scale_to_unit(points)
        self.coordinates = scale_to_unit(spread_points(points, self._distances, self.spread))
        return self

    def quality(self, n_neighbors: int = 5) -> MapQuality:
        """How well the map keeps neighbours: channels with similar profiles side by side.

        Parameters
        ----------
        n_neighbors : int, default 5
            Neighbours that trustworthiness looks at; fewer than half of the channels.

        Returns
        -------
        MapQuality
            Of the coordinates, and the trustworthiness of the layout before it was spread.
        """
        self._check_fitted()
        return measure(self.coordinates, self._distances, n_neighbors, self._unspread if self.spread else None)

    def values(self, profiles: Any = None) -> np.ndarray:
        """Value of each channel in each group, [G, C]: the mean of the profiles over positions.

        Parameters
        ----------
        profiles : GroupProfiles or array-like, optional
            By default those of :meth:`fit`; others need the same layer and channels.
        """
        self._check_fitted()
        values = self._of_layer(self.profiles_ if profiles is None else profiles, self.layer_)
        if values.shape[1] != len(self.coordinates):
            raise ValueError(f"the map is of {len(self.coordinates)} channels, but the profiles of {values.shape[1]}")
        return values.reshape(*values.shape[:2], -1).mean(2)

    def interpolate(self, values: Any, resolution: int = 100) -> np.ndarray:
        """Pictures of values by linear interpolation between channels.

        Parameters
        ----------
        values : array-like
            [G, C] or [C]
        resolution : int, default 100
            Pixels in each direction.

        Returns
        -------
        numpy.ndarray
            [G, resolution, resolution] or [resolution, resolution]; the first axis of a picture is y, from 0 upwards.
            Outside the channels' convex hull it is 0. If they lie on a line, a pixel has the value of the nearest.
        """
        self._check_fitted()
        values = np.asarray(values, float)
        if values.shape[-1:] != (len(self.coordinates),):
            raise ValueError(f"values are [groups, {len(self.coordinates)}], not of the shape {values.shape}")
        return interpolate(self.coordinates, values, grid(0, 1, resolution), "linear")

    @overload
    def plot(
        self, groups: Any = None, arrange: Literal["row", "grid"] = "row", *, profiles: Any = None,
        resolution: int = 100, figsize: tuple[float, float] | None = None,
    ) -> Figure: ...

    @overload
    def plot(
        self, groups: Any = None, arrange: str = "row", *, profiles: Any = None, resolution: int = 100,
        figsize: tuple[float, float] | None = None,
    ) -> Figure | list[Figure]: ...

    def plot(
        self, groups: Any = None, arrange: str = "row", *, profiles: Any = None, resolution: int = 100,
        figsize: tuple[float, float] | None = None,
    ) -> Figure | list[Figure]:
        """Draw a map per group, in colours whose limits are symmetric and the same for all.

        Parameters
        ----------
        groups : list, optional
            Which groups: names, or numbers where profiles are an array.
        arrange : {"row", "grid", "single"}
            All in a row, in a grid, or a figure for each.
        profiles : GroupProfiles or array-like, optional
            Others than those of :meth:`fit`, such as their contrast.
        resolution : int, default 100
        figsize : tuple of float, optional
            In inches.

        Returns
        -------
        matplotlib.figure.Figure, or a list of them with arrange="single"
        """
        from crp.pictures.map_plots import draw_maps

        if arrange not in ("row", "grid", "single"):
            raise ValueError(f"arrange is 'row', 'grid' or 'single', not {arrange!r}")
        self._check_fitted()
        profiles = self.profiles_ if profiles is None else profiles
        if isinstance(profiles, GroupProfiles):
            profiles = profiles if groups is None else profiles.select(groups)
            values, names = self.values(profiles), profiles.groups
        else:
            values = self.values(profiles)
            chosen = range(len(values)) if groups is None else groups
            values, names = values[list(chosen)], [str(group) for group in chosen]
        return draw_maps(
            self.interpolate(values, resolution), self.coordinates, names, np.abs(values).max(),
            (self._title(), _meaning(profiles)), arrange, figsize,
        )

    def _title(self) -> str:
        layer = self.layer_
        if layer is None and isinstance(self.profiles_, GroupProfiles):
            layer = self.profiles_.layers[0]
        return f"a dot is a channel{'' if layer is None else f' of {layer}'}; like channels lie side by side"

    def _check_fitted(self) -> None:
        if not hasattr(self, "coordinates"):
            raise ValueError("the map has no layout yet: call fit(profiles) first")

    @staticmethod
    def _of_layer(profiles: Any, layer: str | None) -> np.ndarray:
        if isinstance(profiles, GroupProfiles):
            if layer is None and len(profiles.layers) > 1:
                raise ValueError(f"say which layer: fit(profiles, layer), one of {', '.join(profiles.layers)}")
            return profiles[profiles.layers[0] if layer is None else layer]
        values = as_float_array(profiles)
        if values.ndim < 2:
            raise ValueError(f"profiles are [groups, channels, ...], not of the shape {values.shape}")
        return values


def _meaning(profiles: Any) -> str:
    """What the values of profiles are, in words."""
    if not isinstance(profiles, GroupProfiles):
        return "value in the profile"
    name = f"mean {profiles.options.get('quantity', 'value')} in the group"
    return name if profiles.options.get("contrast") is None else f"{name},\nless the average of groups"


def plot_projection(points: np.ndarray, labels: Any = None, figsize: tuple[float, float] | None = None) -> Figure:
    """Draw points [N, 2], coloured by any label of each.

    Parameters
    ----------
    points : numpy.ndarray
        [N, 2], as :func:`project` gives them.
    labels : array-like, optional
        [N]; numbers that are no integers get a colour bar, everything else a legend.
    figsize : tuple of float, optional
        In inches.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from crp.pictures.map_plots import draw_points

    return draw_points(as_array(points), None if labels is None else as_array(labels), figsize)
