"""Reads the folders in which zennit-crp 0.6.0 kept its results."""
from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from crp.model.names import unknown_layer_message
from crp.store.folder import StoreError, opened
from crp.store.foreign import mapped_array
from crp.store.references import References, check_concept

_QUANTITY_OF = {"Rel": "relevance", "Act": "activation"}
_RESULTS_NAME = re.compile("(Rel|Act)(?:Max|Stats)_(sum|max)_(normed|unnormed)")


def results_name(quantity: str, kind: str, max_target: str, abs_norm: bool) -> str:
    """Name of a folder of results, such as ``RelMax_sum_normed``; ``kind`` is "Max" or "Stats"."""
    prefix = {"relevance": "Rel", "activation": "Act"}[quantity]
    return f"{prefix}{kind}_{max_target}_{'normed' if abs_norm else 'unnormed'}"


def parse_results_name(name: str) -> tuple[str, str, bool]:
    """Quantity, statistic and normalisation that the name of a folder of results stands for.

    Raises
    ------
    StoreError
        If it is no such name.
    """
    match = _RESULTS_NAME.fullmatch(name)
    if match is None:
        raise StoreError(f"{name!r} does not name results, as 'RelMax_sum_normed' does")
    return _QUANTITY_OF[match[1]], match[2], match[3] == "normed"


def is_results_name(name: str) -> bool:
    """Whether a folder with this name is one of results."""
    return _RESULTS_NAME.fullmatch(name) is not None


def is_legacy_folder(path: str | Path) -> bool:
    """Whether a folder holds results of zennit-crp."""
    return any(Path(path).glob("*Max_*/*_data.npy"))


def files_of_results(path: str | Path) -> dict[str, list[str]]:
    """Name of each folder of results in the one given to ``FeatureVisualization`` -> its ``.npy`` files, sorted."""
    return {
        str(folder.name): sorted(str(file) for file in folder.rglob("*.npy"))
        for folder in sorted(Path(path).glob("*_*ormed")) if folder.is_dir()
    }


def load_sorted(folder: str | Path, stem: str, *below: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample indices, values and rf neurons, each [k, concepts], mapped from the three files of a layer or class.

    Parameters
    ----------
    folder : str or Path
        A folder of results.
    stem : str
        What the names of the files begin with.
    *below : str
        Names of the folders to them, from the folder of results.

    Raises
    ------
    StoreError
        If they do not exist, lie behind a link, or hold anything else.
    """
    folder = Path(folder)
    try:
        with opened(folder.parent, folder.name, *below) as found:
            names = found.names()
    except FileNotFoundError:
        names = []
    if f"{stem}_data.npy" not in names:
        known = [name.removesuffix("_data.npy") for name in names if name.endswith("_data.npy")]
        raise StoreError(f"{folder.joinpath(*below)}: {unknown_layer_message(stem, known)}")
    samples, values, neurons = (legacy_array(folder, *below, f"{stem}_{part}.npy") for part in ("data", "rel", "rf"))
    if samples.ndim != 2 or not samples.shape == values.shape == neurons.shape:
        raise StoreError(f"{folder.joinpath(*below)}: the files of {stem!r} do not hold the same rows of concepts")
    return samples, values, neurons


def legacy_array(folder: Path, *names: str, text: bool = False) -> np.ndarray:
    """The array in a file below a folder of results, mapped.

    Raises
    ------
    StoreError
        If it does not exist, lies behind a link, or holds anything else than numbers, or than short texts.
    """
    try:
        return mapped_array(folder.parent, "/".join((folder.name, *names)), text=text)
    except FileNotFoundError:
        raise StoreError(f"{folder} holds no {'/'.join(names)}") from None


def load_targets(folder: str | Path) -> np.ndarray:
    """The classes of a folder of class statistics, as integers; zennit-crp wrote them as texts.

    Raises
    ------
    StoreError
        If the folder does not list them.
    """
    targets = legacy_array(Path(folder), "targets.npy", text=True)
    if targets.ndim != 1 or targets.dtype.kind not in "iuU":
        raise StoreError(f"{folder} holds a targets.npy that is no list of classes")
    if targets.dtype.kind != "U":
        return np.array(targets)
    try:
        return np.array([_class_number(text) for text in _texts(targets)], dtype=np.int64)
    except ValueError as error:
        raise StoreError(f"{folder} holds a targets.npy with what is no class: {error}") from None


def _texts(array: np.ndarray) -> list[str]:
    """The texts of a list of them; numpy itself ends with a SystemError where there is what is no character."""
    width = array.dtype.itemsize // 4
    characters = array.tobytes().decode("utf-32-be" if array.dtype.str[0] == ">" else "utf-32-le")
    return [characters[first:first + width].rstrip("\0") for first in range(0, len(characters), width)]


def _class_number(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise ValueError(f"{text!r} is no integer")
    return int(text)


class LegacyResults:
    """Answers from a folder of zennit-crp, for as many samples as it kept (40 per concept).

    Parameters
    ----------
    path : str or Path
        The folder that was given to ``FeatureVisualization``.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def identity(self) -> str:
        """A text that changes with the folder; zennit-crp wrote no hashes."""
        files = [(file, Path(file).stat()) for files in files_of_results(self.path).values() for file in files]
        return " ".join(f"{file} {status.st_size} {status.st_mtime_ns}" for file, status in files)

    def top(
        self, layer: str, concept: int, quantity: str = "relevance", k: int = 8, target: int | None = None, *,
        statistic: str = "sum", normalised: bool = True,
    ) -> References:
        """The samples at which a concept is strongest; as ``ReferenceStore.top``."""
        if target is None:
            columns = load_sorted(self._folder(quantity, "Max", statistic, normalised), layer)
        else:
            columns = load_sorted(self._folder(quantity, "Stats", statistic, normalised), str(int(target)), layer)
        check_concept(layer, concept, columns[0].shape[1])
        return References(*(np.array(column[:k, concept]) for column in columns))

    def class_means(
        self, layer: str, concept: int, quantity: str, n: int, *, statistic: str = "sum", normalised: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Per class, the mean of a concept's ``n`` largest values; as ``ReferenceStore.class_means``."""
        targets = load_targets(self._folder(quantity, "Stats", statistic, normalised))
        means = [
            self.top(layer, concept, quantity, n, target, statistic=statistic, normalised=normalised).values.mean()
            for target in targets
        ]
        return targets, np.array(means)

    def _folder(self, quantity: str, kind: str, statistic: str, normalised: bool) -> Path:
        folder = self.path / results_name(quantity, kind, statistic, normalised)
        if not folder.is_dir():
            held = ", ".join(files_of_results(self.path)) or "nothing"
            raise StoreError(f"{self.path} holds no {folder.name}; it holds {held}")
        return folder
