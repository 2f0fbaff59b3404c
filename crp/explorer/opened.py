"""The stores that are served."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from crp.explorer.documents import StoreDocument, Stores
from crp.explorer.pictures import Pictures
from crp.explorer.source import NotThereError, Source, check_different
from crp.explorer.uploads import Uploads
from crp.store import ReferenceStore, StoreError


@dataclass
class Opened:
    """A source, and what is made of it while it is served."""

    source: Source
    pictures: Pictures = field(init=False)
    uploads: Uploads = field(init=False)

    def __post_init__(self) -> None:
        self.pictures, self.uploads = Pictures(self.source), Uploads(self.source)

    def document(self) -> StoreDocument:
        """What there is to explore."""
        return self.source.document(self.pictures.are_there)

    def is_replaced(self) -> bool:
        """Whether another sweep lies where the store was."""
        try:
            return ReferenceStore(self.source.store.path).identity() != self.source.store.identity()
        except StoreError:
            return False


class Shelf:
    """All stores that are served, by their keys.

    Parameters
    ----------
    sources : list of Source

    Raises
    ------
    ValueError
        If two of them are of the same sweep.
    """

    def __init__(self, sources: list[Source]):
        check_different(sources)
        self._opened = {source.key: Opened(source) for source in sources}

    def __getitem__(self, key: str) -> Opened:
        """A store; a NotThereError if it is not served, or not any more."""
        if key not in self._opened:
            raise NotThereError(
                "this store is not served (any more): it may have been replaced by another sweep. Reload the page"
            )
        return self._opened[key]

    def stores(self, version: str) -> Stores:
        """What there is to explore; stores that were replaced are opened anew."""
        for key, opened in list(self._opened.items()):
            if opened.is_replaced():
                source = _again(opened.source)
                opened.source.worker.close()
                self._opened = {
                    (source.key if known == key else known): (Opened(source) if known == key else other)
                    for known, other in self._opened.items()
                }
        documents, lost = [], None
        for opened in self._opened.values():
            try:
                documents.append(opened.document())
            except StoreError as error:  # it was deleted: the others are there still
                lost = error
        if lost is not None and not documents:
            raise lost
        return Stores(stores=documents, version=version)

    def __iter__(self) -> Any:
        return iter(self._opened.values())

    def close(self) -> None:
        """End all work."""
        for opened in self._opened.values():
            opened.source.worker.close()


def _again(source: Source) -> Source:
    """A source opened anew where it lies; without the model, if the new sweep is of another one."""
    if source.fv is not None:
        try:
            return Source.of(source.fv, source.composite, source.class_names)
        except StoreError:
            pass
    return Source.of(source.store.path, None, source.class_names)
