"""Profiles of groups of samples: what a layer does on average in each class, or in any other group."""
from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from crp.store.archive import read_archive, write_archive
from crp.store.reader import ReferenceStore, StoreError

_KIND = "crp-profiles 1"


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    groups: list[str]
    layers: list[str]
    options: dict[str, Any]


@dataclass(frozen=True)
class GroupProfiles:
    """Mean profile of each group in each layer.

    Attributes
    ----------
    groups : list of str
        Names of the groups, in order; of several kinds of groups ``"kind=name"``.
    sizes : numpy.ndarray
        [G], number of samples (or rows) in each.
    values : dict
        Layer -> [G, C], the mean over positions; [G, C, positions...] where they were kept. Of a store it is the value
        of each concept as it was swept: for channels the sum over positions.
    options : dict
        What the profiles depend on; ``options["source"]`` names the store they were read from.
    """

    groups: list[str]
    sizes: np.ndarray
    values: dict[str, np.ndarray]
    options: dict

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in order."""
        return list(self.values)

    def __getitem__(self, layer: str) -> np.ndarray:
        if layer not in self.values:
            raise KeyError(f"there are no profiles of layer {layer!r}, only of {', '.join(map(repr, self.layers))}")
        return self.values[layer]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{layer!r}: {list(values.shape)}" for layer, values in self.values.items())
        return f"GroupProfiles({len(self.groups)} groups of {int(self.sizes.sum())} samples; {shapes})"

    def select(self, groups: Any) -> GroupProfiles:
        """Only some groups, in the given order."""
        indices = [self._index(name) for name in ([groups] if isinstance(groups, str) else groups)]
        return replace(
            self, groups=[self.groups[i] for i in indices], sizes=self.sizes[indices],
            values={layer: values[indices] for layer, values in self.values.items()},
        )

    def _index(self, name: Any) -> int:
        name = name.item() if isinstance(name, torch.Tensor) else name
        if str(name) not in self.groups:
            raise KeyError(f"there is no group {name!r}, only {', '.join(map(repr, self.groups))}")
        return self.groups.index(str(name))

    def check_source(self, store: ReferenceStore) -> None:
        """Raise a StoreError if the profiles were not read from what the store holds now."""
        if self.options.get("source") != store.identity():
            raise StoreError(f"these profiles were not read from what {store.path} holds: compute them again")

    def save(self, path: str | Path) -> None:
        """Write to a file (.npz, without pickle)."""
        settings = {"groups": self.groups, "layers": self.layers, "options": self.options}
        arrays = {f"values_{i}": values for i, values in enumerate(self.values.values())}
        write_archive(path, _KIND, settings, {"sizes": self.sizes, **arrays})

    @classmethod
    def load(cls, path: str | Path, store: ReferenceStore | None = None) -> GroupProfiles:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : str or Path
        store : ReferenceStore, optional
            Refuse profiles that were not read from what it holds.

        Raises
        ------
        ValueError
            If the file holds no profiles; StoreError if they are of another sweep.
        """
        profiles = read_archive(path, _KIND, cls._made_of)
        if store is not None:
            profiles.check_source(store)
        return profiles

    @classmethod
    def _made_of(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> GroupProfiles:
        """What a file holds; a ValueError names what cannot be."""
        known = _Settings.model_validate(settings)
        sizes, values = arrays["sizes"], {layer: arrays[f"values_{i}"] for i, layer in enumerate(known.layers)}
        if sizes.shape != (len(known.groups),) or sizes.dtype.kind != "i" or sizes.min(initial=0) < 0:
            raise ValueError(f"sizes are {sizes.dtype} {sizes.shape}, not the numbers of {len(known.groups)} groups")
        for layer, array in values.items():
            if array.ndim < 2 or len(array) != len(sizes) or array.dtype.kind != "f":
                raise ValueError(f"values of layer {layer!r} are {array.dtype} {array.shape}, for {len(sizes)} groups")
        return cls(known.groups, sizes, values, known.options)


def contrast(profiles: GroupProfiles, groups: Any = None, weight: str = "equal") -> GroupProfiles:
    """What sets groups apart: each group's profile less the average over the groups.

    Parameters
    ----------
    profiles : GroupProfiles
    groups : list of str, optional
        The groups of interest; by default all.
    weight : {"equal", "size"}
        Whether groups count alike in the average, or by their sizes.

    Returns
    -------
    GroupProfiles
    """
    if weight not in ("equal", "size"):
        raise ValueError(f"weight is 'equal' or 'size', not {weight!r}")
    chosen = profiles if groups is None else profiles.select(groups)
    weights = chosen.sizes if weight == "size" else None
    values = {layer: v - np.average(v, axis=0, weights=weights) for layer, v in chosen.values.items()}
    return replace(chosen, values=values, options={**chosen.options, "contrast": weight})


def natural_order(name: str) -> tuple:
    """Order of group names: numbers by value, then text."""
    kind, _, label = name.rpartition("=")
    try:
        number = float(label)
    except ValueError:
        number = float("nan")
    return (kind, 1, 0., label) if number != number else (kind, 0, number, label)
