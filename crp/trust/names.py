"""Names of concepts, kept in a store with who gave them and how well they fit."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from crp.model.frames import import_pandas
from crp.store.archive import archive_bytes
from crp.store.attached import read_attached, write_attached
from crp.store.folder import StoreError
from crp.store.reader import ReferenceStore
from crp.store.schema import Name, Sha256

if TYPE_CHECKING:
    import pandas

_KIND = "crp-names 1"
_ARRAYS = ("concepts", "scores", "controls", "embeddings")


class ConceptName(NamedTuple):
    """A name and how well it fits.

    Attributes
    ----------
    name : str
    score : float
        How well the concept's activation tells images of the name from others (AUC, CoSy): 0.5 by chance.
    control : float
        The same, on average, for other names.
    author : str
        Who or what gave it.
    """

    name: str
    score: float
    control: float
    author: str

    def __str__(self) -> str:
        return f"{self.name} (AUC {self.score:.2f}, other names {self.control:.2f}; by {self.author})"


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    layer: Name
    names: Annotated[list[Annotated[str, Field(min_length=1, max_length=4096)]], Field(max_length=2 ** 20)]
    author: Name
    source: Sha256


@dataclass(frozen=True, eq=False)
class Names:
    """Names of concepts of a layer.

    Attributes
    ----------
    layer : str
    concepts : numpy.ndarray
        [C], ids.
    names : list of str
    scores, controls : numpy.ndarray
        [C], see :class:`ConceptName`.
    author : str
    embeddings : numpy.ndarray
        [C, d], mean embeddings of the references, of length 1, by which :func:`crp.trust.find` searches; d is 0 where
        there are none.
    source : str
        Identity of the sweep.
    """

    layer: str
    concepts: np.ndarray = field(repr=False)
    names: list[str] = field(repr=False)
    scores: np.ndarray = field(repr=False)
    controls: np.ndarray = field(repr=False)
    author: str
    embeddings: np.ndarray = field(repr=False)
    source: str = field(repr=False)

    def __len__(self) -> int:
        """Number of concepts that have a name."""
        return len(self.names)

    def __getitem__(self, concept: int) -> ConceptName:
        """The name of a concept."""
        place = np.flatnonzero(self.concepts == concept)
        if not len(place):
            raise KeyError(f"concept {concept} of {self.layer!r} has no name")
        return self._at(int(place[0]))

    def _at(self, place: int) -> ConceptName:
        return ConceptName(self.names[place], float(self.scores[place]), float(self.controls[place]), self.author)

    def __str__(self) -> str:
        order = np.argsort(-self.scores, kind="stable")
        lines = [f"  concept {self.concepts[i]}: {self._at(i)}" for i in order[:20]]
        hidden = len(self) - len(lines)
        return "\n".join([f"Names of {len(self)} concepts of {self.layer!r}:", *lines,
                          *([f"  and {hidden} more"] if hidden > 0 else [])])

    __repr__ = __str__

    def to_frame(self) -> pandas.DataFrame:
        """A table: concept, name, score, control, author. Needs pandas."""
        return import_pandas().DataFrame({
            "concept": self.concepts, "name": self.names, "score": self.scores, "control": self.controls,
            "author": self.author,
        })

    def save(self, store: ReferenceStore) -> None:
        """Keep the names in the store, in the place of those that the layer had.

        Raises
        ------
        ValueError
            If they are of another sweep.
        """
        if self.source != store.identity():
            raise ValueError(f"these names are not of {store.path}")
        settings = {"layer": self.layer, "names": self.names, "author": self.author, "source": self.source}
        _Settings.model_validate(settings)  # nothing is kept that could not be read
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        write_attached(store, stem(store, self.layer), archive_bytes(_KIND, settings, arrays))

    @classmethod
    def load(cls, store: ReferenceStore, layer: str) -> Names:
        """The names that a store keeps for a layer.

        Raises
        ------
        StoreError
            If there are none, or they are of a sweep that the store does not hold any more.
        """
        names = cls.kept(store, layer)
        if names is None:
            raise StoreError(f"{store.path} holds no names for {layer!r}: give them with name_concepts")
        return names

    @classmethod
    def kept(cls, store: ReferenceStore, layer: str) -> Names | None:
        """The names that a store keeps for a layer; None if there are none."""
        found = read_attached(store, stem(store, layer), _KIND, cls._made_of)
        if found is None:
            return None
        names, path = found
        if names.source != store.identity():
            raise StoreError(f"{path} is of another sweep than the store holds: name its concepts again")
        return names

    @classmethod
    def _made_of(cls, settings: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Names:
        said = _Settings.model_validate(settings)
        count = len(said.names)
        if set(arrays) != set(_ARRAYS):
            raise ValueError(f"the arrays are {', '.join(_ARRAYS)}")
        for name, array in arrays.items():
            kind, ndim = ("i", 1) if name == "concepts" else ("f", 2 if name == "embeddings" else 1)
            if array.dtype.kind != kind or array.ndim != ndim or len(array) != count:
                raise ValueError(f"{name} does not fit {count} names")
        return cls(said.layer, arrays["concepts"], said.names, arrays["scores"], arrays["controls"], said.author,
                   arrays["embeddings"], said.source)


def stem(store: ReferenceStore, layer: str) -> str:
    """What the names of the files begin with that keep it in a store."""
    return f"names.{store.attached_stem(layer, 'activation')}"
