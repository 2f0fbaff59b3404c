"""Classes that take the place of zennit-crp's: whoever overrides what is never called is told what to do instead."""
from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar


class Successor:
    """A class that has the name and the methods of one of zennit-crp 0.6.0, but for some.

    A subclass that defines one of these, and an object that is given one, is refused, since it would never be called.

    Attributes
    ----------
    replaced : dict
        Name of a method that zennit-crp called, and this package does not -> what to do instead.
    """

    replaced: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_overrides(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.replaced:
            raise TypeError(f"{type(self).__name__}.{name} would never be called: {self.replaced[name]}")
        super().__setattr__(name, value)

    if not TYPE_CHECKING:  # for types, there is no such attribute
        def __getattr__(self, name: str) -> Any:
            cls = type(self)
            words = f": {cls.replaced[name]}" if name in cls.replaced else ""
            raise AttributeError(f"{cls.__name__!r} object has no attribute {name!r}{words}", name=name, obj=self)


def check_overrides(cls: type[Successor]) -> None:
    """Raise a TypeError if a class defines what one that it inherits from says is replaced."""
    defined: set[str] = set()
    for base in cls.__mro__:
        for name, instead in vars(base).get("replaced", {}).items():
            if name in defined:
                raise TypeError(f"{cls.__name__}.{name} would never be called: {instead}")
        defined |= vars(base).keys()


def is_overridden(instance: object, name: str, cls: type) -> bool:
    """Whether an object has another method than a class defines, be it by a subclass or its own."""
    return inspect.getattr_static(instance, name) is not inspect.getattr_static(cls, name)
