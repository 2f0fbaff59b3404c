"""Names, order, defaults and kinds of arguments are those that code written for zennit-crp 0.6.0 relies on.

``signatures_of_zennit_crp.txt`` lists them. Beside them, functions here may have defaults for arguments that had none,
and more arguments that are given by name. Annotations are not compared, nor are names that begin with an underscore,
unless they are those of Python itself.
"""
import ast
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

SIGNATURES = (Path(__file__).parent / "signatures_of_zennit_crp.txt").read_text(encoding="utf-8").splitlines()
CACHE = "a cache keeps references under a key of everything that changes them"
DIFFERENT = {
    "crp.__main__.cli": "it also takes the arguments of the command line",
    "crp.__main__.click": "the command line is made without click",
    "crp.cache.Cache.__init__": "the base class keeps nothing, so it has no path",
    "crp.cache.Cache.save": CACHE, "crp.cache.Cache.load": CACHE,
    "crp.cache.ImageCache.save": CACHE, "crp.cache.ImageCache.load": CACHE,
    "crp.concepts.Concept.mask_rf": "it takes the row of the batch, as that of ChannelConcept does and did",
    "crp.graph.GraphNode.__init__": "nodes are calls of modules that a forward pass made, not nodes of torch.jit",
    "crp.graph.ModelGraph.__init__": "a graph is made of these calls; users get it from trace_model_graph",
}
REQUIRED = inspect.Parameter.empty


class Line(NamedTuple):
    """A line of the list: what has a name, and what is known of it."""

    name: str
    kind: str
    text: str


def lines():
    module = owner = ""
    for line in SIGNATURES[1:]:
        depth, text = (len(line) - len(line.lstrip())) // 2, line.strip()
        if not text:
            continue
        if depth == 0:
            module = text.removesuffix(".__init__")
            yield Line(module, "module", "")
        elif text.startswith("imports "):
            yield from (Line(f"{module}.{name}", "import", name) for name in text.removeprefix("imports ").split(", "))
        elif text.startswith("class "):
            owner = f"{module}.{text.removeprefix('class ').partition('(')[0]}"
            yield Line(owner, "class", text.partition("(")[2].rstrip(")"))
        elif "(" in text and " = " not in text.partition("(")[0]:
            text = text.removeprefix("@staticmethod ") if (static := text.startswith("@")) else text
            name = f"{owner if depth == 2 else module}.{text.partition('(')[0]}"
            yield Line(name, "static method" if static else "method" if depth == 2 else "function", text)
        else:
            name, _, made = text.partition(" = ")
            yield Line(f"{module}.{name}", "named tuple", made)


def is_compared(line):
    last = line.name.rpartition(".")[2]
    hidden = last.startswith("_") and not last.endswith("__")
    return not hidden and not is_refused(line)


def is_refused(line):
    """Whether it is a method that is no more: whoever overrides or calls it is told what to do instead."""
    if line.kind not in ("method", "static method"):
        return False
    owner, name = look_up(line.name.rpartition(".")[0]), line.name.rpartition(".")[2]
    return name in getattr(owner, "replaced", {}) and not hasattr(owner, name)


def look_up(name):
    """What a dotted name stands for; a module, or what users reach from one."""
    parts = name.split(".")
    count = max(i for i in range(1, 3) if importlib.util.find_spec(".".join(parts[:i])) is not None)
    found = importlib.import_module(".".join(parts[:count]))
    for part in parts[count:]:
        found = getattr(found, part)
    return found


def arguments_listed(text):
    """Name -> default, as the source code has it, of a line such as ``run(self, n=3, **more)``."""
    arguments = ast.parse(f"def {text}: ...").body[0].args
    defaults = [REQUIRED] * (len(arguments.args) - len(arguments.defaults))
    defaults += [ast.unparse(default) for default in arguments.defaults]
    found = dict(zip((argument.arg for argument in arguments.args), defaults))
    return found | ({"**": REQUIRED} if arguments.kwarg else {})


def arguments_here(function):
    return {
        "**" if parameter.kind is parameter.VAR_KEYWORD else name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not parameter.KEYWORD_ONLY
    }


def difference(line):
    """In what the function here differs from a line of the list; an empty text if it serves whoever knows that."""
    owner = look_up(line.name.rpartition(".")[0])
    function = getattr(owner, line.name.rpartition(".")[2])
    listed, here = arguments_listed(line.text), arguments_here(function)
    if line.kind == "method" and next(iter(here), None) != "self":
        return "it is not called on an instance"
    if list(listed) != list(here):
        return f"its arguments are {', '.join(here)}"
    for name, default in listed.items():
        if default is not REQUIRED and not is_default(default, here[name], owner):
            return f"{name} has the default {here[name]!r}"
    return ""


def is_default(source, here, owner):
    names = vars(sys.modules[owner.__module__]) if inspect.isclass(owner) else vars(owner)
    places = {"ChannelConcept": "crp.concepts", "vis_img_heatmap": "crp.image", "vis_opaque_img": "crp.image"}
    known = {**names, **{name: look_up(f"{module}.{name}") for name, module in places.items() if name in source}}
    return eval(source, known) == here


def check(line):
    """Say how the library differs from a line, if it does."""
    try:
        found = look_up(line.name)
    except (AttributeError, ImportError) as error:
        return f"it is not there: {error}"
    if line.kind in ("function", "method", "static method"):
        return difference(line)
    if line.kind == "class":
        bases = line.text.split(", ") if line.text else []
        module = line.name.rpartition(".")[0]
        is_one = inspect.isclass(found) and all(issubclass(found, look_up(f"{module}.{base}")) for base in bases)
        return "" if is_one else f"it is no class, or none of {bases}"
    if line.kind == "named tuple":
        *_, fields = ast.literal_eval(line.text.removeprefix("namedtuple"))
        return "" if found._fields == tuple(fields.split(", ")) else f"its fields are {found._fields}"
    return ""


LINES = [line for line in lines() if is_compared(line)]


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.kind} {line.name}")
def test_what_code_for_zennit_crp_uses(line):
    found = check(line)
    if line.name in DIFFERENT:
        assert found, f"{line.name} is as it was, and need not be in the table"
    else:
        assert not found, found


def test_all_that_is_not_compared_is_in_the_list():
    assert DIFFERENT.keys() <= {line.name for line in LINES}
    assert len(LINES) > 150


def names_in(module):
    """The names that a module of zennit-crp had: what a star import gave."""
    names = (line.name for line in LINES if line.kind not in ("module", "method", "static method"))
    return {name.rpartition(".")[2] for name in names if name.rpartition(".")[0] == module and name not in DIFFERENT}


MODULES = [line.name for line in LINES if line.kind == "module" and names_in(line.name) and line.name != "crp.__main__"]


def star_import(module):
    names = {}
    exec(f"from {module} import *", names)
    return names


@pytest.mark.parametrize("module", MODULES)
def test_star_imports_give_all_names(module):
    names = star_import(module)
    assert names.keys() >= names_in(module)
    assert all(names[name] is look_up(f"{module}.{name}") for name in names_in(module))


def test_names_of_others_are_what_they_were():
    import torchvision
    from matplotlib import gridspec
    from matplotlib import pyplot as plt
    from zennit import image as zimage

    names = star_import("crp.image")
    assert names["gaussian_blur"] is torchvision.transforms.functional.gaussian_blur
    assert (names["plt"], names["gridspec"], names["zimage"]) == (plt, gridspec, zimage)
    assert names["Image"].open and names["np"].array and names["List"][int]
    assert star_import("crp.visualization")["concurrent"].futures


@pytest.mark.parametrize("module, name", [("crp.image", "gaussian_blur"), ("crp.image", "plt")])
def test_names_of_packages_that_are_not_installed(monkeypatch, module, name):
    package = look_up(module).__getattr__.places[name].partition(".")[0]
    for imported in [other for other in sys.modules if other.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, imported, None)
    door = importlib.reload(look_up(module))
    try:
        with pytest.raises(ImportError, match=f"{module}.{name} is that of {package}.*, which is not installed"):
            exec(f"from {module} import {name}")
        assert name not in star_import(module) and "imgify" in star_import(module)
    finally:
        monkeypatch.undo()
        importlib.reload(door)


def test_names_that_nobody_had():
    with pytest.raises(ImportError, match="cannot import name 'nothing' from 'crp.image'"):
        exec("from crp.image import nothing")
    assert not hasattr(look_up("crp.image"), "nothing")


def test_results_are_the_named_tuples():
    from crp.attribution import AttributionResult, attrGraphResult, attrResult

    made = attrResult(1, {}, {}, 2)
    assert isinstance(made, AttributionResult) and (made.heatmap, made.prediction) == (1, 2)
    assert attrGraphResult([("a", 1)], {}) == ([("a", 1)], {}) == attrGraphResult(nodes=[("a", 1)], connections={})


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_the_graph_of_a_traced_module_is_printed(capsys):
    import torch

    from crp.graph import dump_pytorch_graph

    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    dump_pytorch_graph(torch.jit.trace(net, torch.rand(1, 2)).inlined_graph)
    printed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("aten::linear") and " -> [" in line for line in printed)
    assert any(line.startswith("aten::relu") for line in printed)


@pytest.mark.parametrize("line, differs", [
    ("get_crop_range(heatmap, crop_th)", False), ("get_crop_range(crop_th, heatmap)", True),
    ("get_crop_range(heatmap)", True), ("get_crop_range(heatmap, crop_th=0.1)", True),
    ("get_crop_range(heatmap, threshold)", True),
])
def test_the_comparison_finds_differences(line, differs):
    assert bool(check(Line("crp.image.get_crop_range", "function", line))) == differs


def test_the_comparison_finds_other_kinds():
    mask = "mask(batch_id: int, concept_ids: List, layer_name=None)"
    assert not check(Line("crp.concepts.ChannelConcept.mask", "static method", mask))
    assert check(Line("crp.concepts.ChannelConcept.mask", "method", mask))
    assert check(Line("crp.cache.Cache", "class", "ImageCache")) and check(Line("crp.image.imgify", "class", ""))
    assert check(Line("crp.attribution.attrResult", "named tuple", "namedtuple('R', 'heatmap, relevances')"))
    assert check(Line("crp.image.imgefy", "import", "imgefy"))
