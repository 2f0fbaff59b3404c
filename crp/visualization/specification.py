"""What to sweep, specified by a dict."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn
from zennit.core import Composite

from crp.attribution.conditional import CondAttribution
from crp.model.positions import ATTENTION_MASK


class SweepSpec(BaseModel):
    """Model, dataset, layers and composite of a sweep, and what FeatureVisualization and CondAttribution take besides.

    Attributes
    ----------
    model : torch.nn.Module or CondAttribution
    dataset : sequence
    layers : dict, or iterable of str
        Layer -> concept; or layers whose channels are the concepts.
    composite : zennit.core.Composite
    preprocess_fn, max_target, abs_norm, path, device
        As for ``FeatureVisualization``.
    target_key, start_layer, y, position_mask, collate_fn, class_names
        As for ``FeatureVisualization`` too.
    output, functional, samples
        As for ``CondAttribution``.
    """

    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)

    model: CondAttribution | nn.Module
    dataset: Any
    layers: Any
    composite: Composite
    preprocess_fn: Callable | None = None
    max_target: Literal["sum", "max"] = "sum"
    abs_norm: bool = True
    path: str | Path = "FeatureVisualization"
    device: str | torch.device | None = None
    target_key: str | None = "labels"
    start_layer: str | None = None
    y: Any = None
    position_mask: str | Callable | None = ATTENTION_MASK
    collate_fn: Callable | None = None
    class_names: list[str] | tuple[str, ...] | None = None
    output: str | int | Callable | None = None
    functional: bool | str = True
    samples: dict[str, Any] = {}

    @classmethod
    def of(cls, made: Any) -> SweepSpec:
        """What a dict specifies.

        Raises
        ------
        TypeError, ValueError
            If it is none, lacks something, or has something else.
        """
        needed = [name for name, field in cls.model_fields.items() if field.is_required()]
        if not isinstance(made, Mapping):
            raise TypeError(
                f"a sweep is specified by a dict with {', '.join(needed)}, or by (FeatureVisualization, composite), "
                f"not by a {type(made).__name__}"
            )
        try:
            return cls.model_validate(dict(made))
        except ValidationError as error:
            optional = [name for name in cls.model_fields if name not in needed]
            raise ValueError(
                f"a sweep is specified by {', '.join(needed)}, and perhaps {', '.join(optional)}: {_in_words(error)}"
            ) from None

    def of_samples(self) -> dict[str, Any]:
        """What is said of samples and targets."""
        names = ("target_key", "start_layer", "y", "position_mask", "collate_fn", "class_names")
        return {name: getattr(self, name) for name in names}

    def attribution(self) -> CondAttribution:
        """The model, ready to be attributed."""
        if isinstance(self.model, CondAttribution):
            return self.model
        return CondAttribution(
            self.model, self.device, output=self.output, functional=self.functional, samples=self.samples
        )


def _in_words(error: ValidationError) -> str:
    kinds: dict[str, list[str]] = {"missing": [], "unknown": []}
    wrong = []
    for found in error.errors(include_url=False):
        kind = {"missing": "missing", "extra_forbidden": "unknown"}.get(found["type"])
        if kind is None:
            wrong.append(f"{'.'.join(map(str, found['loc'][:1]))}: {found['msg']}, not {found['input']!r:.100}")
        else:
            kinds[kind].append(str(found["loc"][0]))
    return "; ".join([*(f"{names} is {kind}" for kind, names in kinds.items() if names), *wrong])
