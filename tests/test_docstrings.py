"""Examples in docstrings run, and everything public is documented."""
import doctest
import importlib
import inspect
import pkgutil

import pytest

import crp

REPLACED = {"crp.maximization", "crp.statistics", "crp.__main__"}
MODULES = sorted(
    {module.name for module in pkgutil.walk_packages(crp.__path__, "crp.")} - REPLACED
)


@pytest.mark.parametrize("name", MODULES)
def test_public_objects_are_documented(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for attribute, value in vars(module).items():
        if attribute.startswith("_") or getattr(value, "__module__", None) != name:
            continue
        assert inspect.getdoc(value), f"{name}.{attribute}"
        if inspect.isclass(value):
            for method, function in vars(value).items():
                if not method.startswith("_") and inspect.isfunction(function):
                    assert function.__doc__, f"{name}.{attribute}.{method}"


def test_examples_run():
    found = [doctest.testmod(importlib.import_module(name)) for name in MODULES]
    assert sum(result.attempted for result in found) >= 30
    assert sum(result.failed for result in found) == 0
