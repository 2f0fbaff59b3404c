"""Names that stood in modules of zennit-crp, whoever made them: imported when they are first asked for."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def names_of(module: str, names: str) -> dict[str, str]:
    """Where names lie that stand in one module, as :class:`HandedOn` takes it.

    Examples
    --------
    >>> names_of("typing", "Any List")
    {'Any': 'typing:Any', 'List': 'typing:List'}
    """
    return {name: f"{module}:{name}" for name in names.split()}


class HandedOn:
    """What a module gives as its ``__getattr__`` to hand on names that lie elsewhere, without importing them itself.

    Parameters
    ----------
    owner : str
        Name of the module.
    places : dict
        Name -> ``module:name`` there, or a module.

    Examples
    --------
    >>> HandedOn("crp.image", {"half": "statistics:median"})("half")([1, 2, 3])
    2
    """

    def __init__(self, owner: str, places: Mapping[str, str]):
        self.owner, self.places = owner, places

    def __call__(self, name: str) -> Any:
        """The object of that name.

        Raises
        ------
        AttributeError
            If there is no such name.
        ImportError
            If it lies in a package that is not installed.
        """
        if name not in self.places:
            raise AttributeError(f"module {self.owner!r} has no attribute {name!r}")
        module, _, attribute = self.places[name].partition(":")
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            raise ImportError(f"{self.owner}.{name} is that of {error.name}, which is not installed") from error
        return getattr(found, attribute) if attribute else found

    def installed(self) -> list[str]:
        """The names without those of packages that are not installed: for ``__all__``, which must not fail."""
        packages = {name: place.partition(":")[0].partition(".")[0] for name, place in self.places.items()}
        present = {package for package in set(packages.values()) if find_spec(package) is not None}
        return [name for name, package in packages.items() if package in present]


def imported_when_asked(
    package: str, places: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """What a package gives as its ``__getattr__`` and ``__dir__``, to import its own names when they are asked for.

    So that who needs one light module of it does not wait for PyTorch and all that the others need.

    Parameters
    ----------
    package : str
    places : dict
        Name -> module of the package that has it; not one of the same name.
    """
    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{places[name]}"), name)

    return get, lambda: sorted(places)
