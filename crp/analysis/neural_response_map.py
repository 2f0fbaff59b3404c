"""Response maps with the names of Neural Response Map."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from crp.analysis.response_map import ResponseMap

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class NeuralResponseMap:
    """A :class:`ResponseMap` of a model with the names that users of Neural Response Map know.

    Parameters
    ----------
    model : torch.nn.Module
    """

    def __init__(self, model: nn.Module):
        self.model, self.map = model, ResponseMap()

    def TrainMap(self, inputs: Any, layers: list[str] | None = None) -> ResponseMap:  # noqa: N802
        """Lay out the neurons; see :meth:`ResponseMap.fit`."""
        return self.map.fit(self.model, inputs, layers)

    def GenerateMap(  # noqa: N802
        self, inputs: Any, method: str = "nearest", cmap: str = "viridis", size: tuple[float, float] = (5, 5),
        file: str | Path | None = None,
    ) -> Figure:
        """Draw the mean responses to inputs; see :meth:`ResponseMap.plot`."""
        return self.map.plot(inputs, method, cmap, size, file)

    def CircleProjection(self) -> ResponseMap:  # noqa: N802
        """Make the map round; see :meth:`ResponseMap.round`."""
        return self.map.round()
