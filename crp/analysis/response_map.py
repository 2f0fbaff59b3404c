"""Response maps: neurons of several layers in one map, side by side where they respond alike."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from crp.analysis.layer_responses import layer_responses
from crp.analysis.layouts import grid, interpolate, perplexity_for, scale_to_unit
from crp.analysis.map_quality import MapQuality, measure
from crp.analysis.rank_correlation import spearman
from crp.model.arrays import as_float_array
from crp.model.layers import as_layer_list
from crp.model.positions import ATTENTION_MASK, PositionMask
from crp.store.archive import read_archive, write_archive
from crp.store.reader import ReferenceStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KIND = "crp-response-map 1"
SECTORS = 36


class _Settings(BaseModel):
    model_config = ConfigDict(strict=True)

    layers: list[str]
    channels: dict[str, Annotated[int, Field(ge=0)]]
    axis: int
    random_state: int | None


class ResponseMap:
    """A map of neurons: near each other where their responses are correlated over inputs (Spearman).

    A neuron is a channel of a layer; its response the mean over positions, scaled to [0, 1] over the inputs of
    :meth:`fit`. Neurons whose response never changes are left out. Anti-correlated neurons lie far apart.

    Parameters
    ----------
    axis : int, default 1
        The axis of the channels of a layer, counted with the batch axis.
    random_state : int or None, default 0
        Of t-SNE.
    position_mask : str, callable or None, default "attention_mask"
        Which positions of inputs count, as for :class:`crp.visualization.FeatureVisualization`. Files do not hold it.

    Attributes
    ----------
    coordinates : numpy.ndarray
        [D, 2], in [-1, 1].
    neurons : list of (str, int)
        Layer and channel of each.

    Examples
    --------
    >>> response_map = ResponseMap().fit(model, images, ["relu2", "relu3"])  # doctest: +SKIP
    >>> response_map.plot(images[targets == 3])  # doctest: +SKIP
    """

    def __init__(
        self, axis: int = 1, random_state: int | None = 0, *, position_mask: PositionMask = ATTENTION_MASK
    ):
        self.axis, self.random_state, self.position_mask = axis, random_state, position_mask
        self.model: nn.Module | None = None
        self._distances: np.ndarray | None = None
        self._before_rounding: np.ndarray | None = None

    def __repr__(self) -> str:
        size = f"{len(self.neurons)} neurons" if hasattr(self, "neurons") else "not fitted"
        return f"ResponseMap({size})"

    def fit(self, model: nn.Module, inputs: Any, layers: list[str] | None = None) -> ResponseMap:
        """Lay out the neurons of a model.

        Parameters
        ----------
        model : torch.nn.Module
        inputs : torch.Tensor, tuple or dict, or an iterable of batches of them
            [N, ...], inputs of the model.
        layers : list of str, optional
            By default all modules without children, but the first and the last.

        Returns
        -------
        ResponseMap
            Itself.
        """
        self.fit_values(self._responses_of(model, inputs, layers and as_layer_list(layers)))
        self.model = model
        return self

    def fit_store(
        self, store: ReferenceStore, layers: list[str] | None = None, quantity: str = "activation"
    ) -> ResponseMap:
        """Lay out the concepts of layers by what a sweep found.

        Parameters
        ----------
        store : ReferenceStore
        layers : list of str, optional
            By default all.
        quantity : {"activation", "relevance"}

        Returns
        -------
        ResponseMap
            Itself.
        """
        layers = store.layers if layers is None else as_layer_list(layers)
        return self.fit_values({layer: np.asarray(store.values(layer, quantity)) for layer in layers})

    def fit_values(self, values: Mapping[str, Any]) -> ResponseMap:
        """Lay out neurons by arrays: layer -> responses [N, C] of N inputs.

        Returns
        -------
        ResponseMap
            Itself.
        """
        columns = _joined(values)
        low, high = columns.min(0), columns.max(0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError("responses hold NaN or infinite numbers")
        changing = high > low
        if changing.sum() < 2:
            raise ValueError(f"{changing.sum()} neurons respond differently to different inputs; a map needs two")
        names = [(layer, channel) for layer, array in values.items() for channel in range(np.shape(array)[1])]
        self.neurons = [name for name, kept in zip(names, changing) if kept]
        self.layers = list(values)
        self._channels = {layer: int(np.shape(array)[1]) for layer, array in values.items()}
        self._changing, self._low, self._high = changing, low[changing], high[changing]
        distances = (1 - spearman(columns[:, changing])).clip(0)
        np.fill_diagonal(distances, 0)
        self._distances, self._before_rounding = distances, None
        count = len(distances)
        if count < 4:
            points = np.stack([distances[0], np.zeros(count)], 1)
        else:
            from sklearn.manifold import TSNE  # which takes seconds to import

            points = TSNE(
                metric="precomputed", init="random", perplexity=perplexity_for(count), random_state=self.random_state
            ).fit_transform(distances)
        self.coordinates = 2 * scale_to_unit(np.asarray(points, np.float64)) - 1
        return self

    def round(self) -> ResponseMap:
        """Make the map round: in each of 36 sectors around the centre, divide by the radius of the outermost neuron.

        Of fewer than 180 neurons about five share a sector; with fewer still, all would go to the rim.

        Returns
        -------
        ResponseMap
            Itself.
        """
        self._check_fitted()
        self._before_rounding = self.coordinates
        radius = np.linalg.norm(self.coordinates, axis=1)
        angle = np.arctan2(self.coordinates[:, 1], self.coordinates[:, 0])
        sectors = min(SECTORS, max(1, len(radius) // 5))
        sector = np.floor((angle + np.pi) / (2 * np.pi) * sectors).astype(int) % sectors
        outermost = np.zeros(sectors)
        np.maximum.at(outermost, sector, radius)
        self.coordinates = self.coordinates / np.maximum(outermost[sector], 1e-12)[:, None]
        return self

    def quality(self, n_neighbors: int = 5) -> MapQuality:
        """How well the map keeps neighbours: neurons whose responses are correlated side by side.

        Parameters
        ----------
        n_neighbors : int, default 5
            Neighbours that trustworthiness looks at; fewer than half of the neurons.

        Returns
        -------
        MapQuality
            Of the coordinates as they are now; after :meth:`round` also the trustworthiness before it.

        Raises
        ------
        ValueError
            If the map was loaded: files hold no correlations.
        """
        self._check_fitted()
        if self._distances is None:
            raise ValueError("the map was loaded, and its file holds no correlations to compare it with: measure it "
                             "before save, or fit it again")
        return measure(self.coordinates, self._distances, n_neighbors, self._before_rounding)

    def responses(self, inputs: Any) -> np.ndarray:
        """Mean response of each neuron to inputs, scaled as in :meth:`fit` and clipped to [0, 1]: [D].

        Parameters
        ----------
        inputs : torch.Tensor, tuple or dict, an iterable of batches of them, or a dict of arrays
            Inputs of the model; or responses, layer -> [N, C], as for :meth:`fit_values`.
        """
        self._check_fitted()
        is_values = isinstance(inputs, Mapping) and set(inputs) >= set(self.layers)
        if not is_values:
            if self.model is None:
                raise ValueError(f"the map has no model: give responses, a dict with the layers {self.layers}, or load "
                                 "it with ResponseMap.load(path, model)")
            inputs = self._responses_of(self.model, inputs, self.layers)
        columns = _joined({layer: inputs[layer] for layer in self.layers})
        if columns.shape[1] != len(self._changing):
            raise ValueError(f"the map is of layers with {self._channels} channels, but there are {columns.shape[1]}")
        scaled = (columns[:, self._changing] - self._low) / (self._high - self._low)
        return scaled.clip(0, 1).mean(0)

    def interpolate(self, inputs: Any, method: str = "nearest", resolution: int = 200) -> np.ndarray:
        """The picture that :meth:`plot` draws, [resolution, resolution], NaN outside the neurons' convex hull."""
        responses = self.responses(inputs)
        return interpolate(self.coordinates, responses, grid(-1, 1, resolution), method, outside=np.nan)

    def plot(
        self, inputs: Any, method: str = "nearest", cmap: str = "viridis", size: tuple[float, float] = (5, 5),
        file: str | Path | None = None, *, title: str | None = None,
    ) -> Figure:
        """Draw the mean responses to inputs, with a colour bar.

        Parameters
        ----------
        inputs : torch.Tensor, tuple or dict, an iterable of batches of them, or a dict of arrays
            As for :meth:`responses`.
        method : {"nearest", "linear"}
            How to colour what lies between neurons.
        cmap : str, default "viridis"
            For values from 0 to 1.
        size : tuple of float, default (5, 5)
            In inches.
        file : str or Path, optional
            Where to save the picture.
        title : str, optional
            What the inputs are; by default how many neurons of which layers the map shows.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from crp.pictures.map_plots import draw_response

        picture = self.interpolate(inputs, method)
        title = f"{len(self.neurons)} neurons of {', '.join(self.layers)}" if title is None else title
        figure = draw_response(picture, title, cmap, size)
        if file is not None:
            figure.savefig(file)
        return figure

    def neuron_at(self, x: float, y: float) -> tuple[str, int]:
        """Layer and channel of the neuron nearest to a place in [-1, 1]."""
        self._check_fitted()
        return self.neurons[int(np.argmin(((self.coordinates - [x, y]) ** 2).sum(1)))]

    def save(self, path: str | Path) -> None:
        """Write the map to a file (.npz, without pickle), without the model."""
        self._check_fitted()
        settings = {"layers": self.layers, "channels": self._channels, "axis": self.axis,
                    "random_state": self.random_state}
        arrays = {"coordinates": self.coordinates, "changing": self._changing, "low": self._low, "high": self._high}
        write_archive(path, _KIND, settings, arrays)

    @classmethod
    def load(cls, path: str | Path, model: nn.Module | None = None) -> ResponseMap:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : str or Path
        model : torch.nn.Module, optional
            To see its responses to inputs.

        Raises
        ------
        ValueError
            If the file holds no map.
        """
        def make(settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> ResponseMap:
            result = cls._made_of(settings, arrays)
            result.model = model
            return result

        return read_archive(path, _KIND, make)

    @classmethod
    def _made_of(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> ResponseMap:
        """What a file holds; a ValueError names what cannot be."""
        known, changing = _Settings.model_validate(settings), arrays["changing"]
        layers_and_channels = [(layer, known.channels[layer]) for layer in known.layers]
        if changing.dtype != bool or changing.shape != (sum(channels for _, channels in layers_and_channels),):
            raise ValueError(f"changing is {changing.dtype} {changing.shape}, not a truth value of each channel")
        result = cls(known.axis, known.random_state)
        result.layers, result._channels, result._changing = known.layers, known.channels, changing
        names = ((layer, channel) for layer, channels in layers_and_channels for channel in range(channels))
        result.neurons = [name for name, kept in zip(names, changing) if kept]
        count = len(result.neurons)
        for name, shape in ("coordinates", (count, 2)), ("low", (count,)), ("high", (count,)):
            array = arrays[name]
            if array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
                raise ValueError(f"{name} is {array.dtype} {array.shape}, not finite numbers of the shape {shape}")
        result.coordinates, result._low, result._high = arrays["coordinates"], arrays["low"], arrays["high"]
        return result

    def _responses_of(self, model: nn.Module, inputs: Any, layers: list[str] | None) -> dict[str, np.ndarray]:
        return layer_responses(model, inputs, layers, self.axis, position_mask=self.position_mask)

    def _check_fitted(self) -> None:
        if not hasattr(self, "coordinates"):
            raise ValueError("the map has no layout yet: call fit, fit_store or fit_values first")


def _joined(values: Mapping[str, Any]) -> np.ndarray:
    """Arrays [N, C] of layers as columns [N, all channels]."""
    arrays = {layer: as_float_array(array) for layer, array in values.items()}
    if not arrays:
        raise ValueError("a map needs at least one layer")
    shapes = {layer: array.shape for layer, array in arrays.items()}
    if any(len(shape) != 2 for shape in shapes.values()) or len({shape[0] for shape in shapes.values()}) != 1:
        raise ValueError(f"responses are [inputs, channels] of the same inputs, not of the shapes {shapes}")
    return np.concatenate(list(arrays.values()), 1)
