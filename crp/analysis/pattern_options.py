"""How patterns are found: the options, as they are given and as files hold them."""
from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from crp.store.files import Quantity
from crp.store.schema import Count, Name, Sha256

_METRICS_WITH_PARAMETERS = {"haversine", "mahalanobis", "minkowski", "p", "pyfunc", "seuclidean", "wminkowski"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class PatternSource(_Strict):
    """The layer of a store whose rows were clustered, and the identity of that store."""

    store: Sha256
    layer: Name
    quantity: Quantity


class PatternOptions(_Strict):
    """The options of :func:`crp.analysis.find_patterns`, with the rows and components that were clustered."""

    source: PatternSource | None
    min_pattern_size: Count
    min_samples: Count
    epsilon: float
    method: str
    metric: Annotated[str, Field(max_length=99)]
    normalize: bool | Literal["mean_std"]
    reduce: int | Literal[False]
    fit_samples: Count

    @property
    def of_hdbscan(self) -> dict[str, Any]:
        """Arguments for the hdbscan package."""
        return {
            "min_cluster_size": self.min_pattern_size, "min_samples": self.min_samples, "metric": self.metric,
            "cluster_selection_epsilon": self.epsilon, "cluster_selection_method": self.method,
        }


def check_options(
    min_pattern_size: int, min_samples: int, epsilon: float, method: str, metric: str, normalize: bool | str
) -> None:
    """Raise a ValueError for options that make no sense."""
    if min_pattern_size < 2:
        raise ValueError(f"min_pattern_size is at least 2, not {min_pattern_size}")
    if min_samples < 1:
        raise ValueError(f"min_samples is at least 1, not {min_samples}")
    if epsilon < 0:
        raise ValueError(f"epsilon is not negative, as {epsilon} is")
    if method not in ("leaf", "eom"):
        raise ValueError(f"method is 'leaf' or 'eom', not {method!r}")
    from sklearn.neighbors import BallTree, KDTree  # which takes seconds to import

    metrics = sorted({*KDTree.valid_metrics, *BallTree.valid_metrics} - _METRICS_WITH_PARAMETERS)
    if metric not in metrics:
        raise ValueError(f"metric is one of {', '.join(metrics)}, not {metric!r}")
    if normalize not in (True, False, "mean_std"):
        raise ValueError(f"normalize is True, False or 'mean_std', not {normalize!r}")


def read_options(found: Any) -> PatternOptions:
    """The options that a file holds; a ValueError if they are none."""
    options = PatternOptions.model_validate(found)
    check_options(
        options.min_pattern_size, options.min_samples, options.epsilon, options.method, options.metric,
        options.normalize,
    )
    return options
