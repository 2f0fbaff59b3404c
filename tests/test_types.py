"""Whoever uses crp with a type checker finds all its functions annotated."""
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import crp

REPLACED = {"crp.maximization", "crp.statistics"}
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(crp.__path__, "crp.")
    if module.name not in REPLACED and "._" not in module.name
)


def functions_of(owner):
    """Public functions of a module, or methods of a class, by name; constructors and calls too."""
    for name, value in vars(owner).items():
        if name.startswith("_") and name not in ("__init__", "__call__"):
            continue
        if isinstance(value, property):
            value = value.fget
        value = inspect.unwrap(getattr(value, "__func__", getattr(value, "func", value)))
        if inspect.isfunction(value) and value.__module__ == getattr(owner, "__module__", owner.__name__):
            yield f"{owner.__name__}.{name}", value


def classes_of(module):
    return [
        value for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]


def missing_annotations(function):
    signature = inspect.signature(function)
    missing = [
        name for i, (name, parameter) in enumerate(signature.parameters.items())
        if parameter.annotation is inspect.Parameter.empty and not (i == 0 and name in ("self", "cls"))
    ]
    returns = signature.return_annotation is not inspect.Signature.empty or function.__name__ == "__init__"
    return missing if returns else [*missing, "return"]


@pytest.mark.parametrize("name", MODULES)
def test_public_signatures_are_complete(name):
    module = importlib.import_module(name)
    found = [function for owner in (module, *classes_of(module)) for function in functions_of(owner)]
    missing = {name: missing_annotations(function) for name, function in found}
    assert not {name: names for name, names in missing.items() if names}


def test_the_check_finds_methods_of_all_kinds():
    from crp.analysis.patterns import Patterns
    from crp.attribution import CondAttribution
    from crp.concepts import ChannelConcept

    names = {name for owner in (Patterns, CondAttribution, ChannelConcept) for name, _ in functions_of(owner)}
    assert names >= {"Patterns.load", "Patterns.sizes", "CondAttribution.__call__", "CondAttribution.attached",
                     "ChannelConcept.mask", "ChannelConcept.__init__"}

    def incomplete(self, a: int, b, *args) -> None: ...

    assert missing_annotations(incomplete) == ["b", "args"]


def test_type_checkers_see_the_annotations():
    assert (Path(crp.__file__).parent / "py.typed").is_file()
