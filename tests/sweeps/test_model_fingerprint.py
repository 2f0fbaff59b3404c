"""Whatever changes what a model computes is noticed by a sweep and by reading, and nothing else is."""
import collections
import copy
import dataclasses
import datetime
import enum
import functools
import io
import itertools
import logging
import os
import subprocess
import sys
import threading
import types
import weakref
from collections import OrderedDict
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch
from small_sweeps import LAYERS, dataset, single_targets, sweep, visualization
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.data import TensorDataset
from zennit.composites import EpsilonPlusFlat

from crp.store import StoreError
from crp.store.place import place_of_store
from crp.store.settings import ANSWER_TOLERANCE, differing_answers
from crp.sweeps.model_answers import model_answers
from crp.sweeps.model_fingerprint import changed_by, model_fingerprint
from crp.sweeps.sweep import Sweep

pytestmark = pytest.mark.usefixtures("quick")

helpers = types.ModuleType("helpers_of_a_user")
exec("scale = 1.\nfactor = 1.\nunused = 1.\ndef shift(x):\n    return x * factor\n", vars(helpers))
sys.modules[helpers.__name__] = helpers

SCALE, TENSOR, ARRAY, TABLE = 1., torch.ones(()), np.ones(()), {"a": [1.]}
HOLDER = types.SimpleNamespace(scale=1.)
CACHE: dict = {}


def twice_removed(x):
    return x * SCALE


def removed(x):
    return twice_removed(x) if len(x) else removed(x[:0])


@functools.lru_cache
def remembered(scale):
    return scale * 1.


@dataclasses.dataclass
class Settings:
    scale: float = 1.


class Slotted:
    __slots__ = ("scale",)

    def __init__(self, scale=1.):
        self.scale = scale


class Mode(enum.Enum):
    UP, DOWN = 1., -1.


class Scale:
    factor = 1.

    def __init__(self, scale=1.):
        self.scale = scale

    def __call__(self, x):
        return x * self.scale * self.factor

    def hook(self, module, inputs, output):
        return output * self.scale

    def hook_with_keywords(self, module, inputs, keywords, output):
        return output * self.scale


class Deque(collections.deque):
    def total(self):
        return sum(self)


class Scaled(nn.Module):
    scale, table = 1., {"a": 1.}

    def __init__(self):
        super().__init__()
        self.public, self._private = 1., 1.
        self.namespace, self._namespace = types.SimpleNamespace(scale=1.), types.SimpleNamespace(scale=1.)
        self.settings, self.slotted, self.mode = Settings(), Slotted(), Mode.UP
        self.in_list, self.in_dict, self.in_object = [Settings()], {"a": (Settings(),)}, Scale(Scale())
        self.function, self.callable, self.partial = (lambda x: x), Scale(), functools.partial(torch.mul, other=1.)
        self.tensor, self.array, self.objects = torch.ones(()), np.ones(()), np.array([Settings()], object)
        self.several = {"a", "b", "c"}
        self.outside = [nn.Linear(1, 1)]
        self.register_buffer("unsaved", torch.ones(()), persistent=False)

    @property
    def shown(self):
        return self.scale

    @staticmethod
    def still(x):
        return x

    def inner(self, x, by=1., *, more=[1.]):  # noqa: B006
        return x * by * more[0]

    def forward(self, x):
        x = removed(x) * TENSOR * float(ARRAY) * TABLE["a"][0] * HOLDER.scale * remembered(1.)
        x = helpers.shift(x) * helpers.scale
        return self.still(self.inner(x)) * self.shown * self._private * Scale()(x)


def model():
    torch.manual_seed(0)
    made = nn.Sequential(OrderedDict([
        ("conv", nn.Conv2d(1, 5, 3)), ("relu", nn.ReLU()), ("flatten", nn.Flatten()), ("fc", nn.Linear(80, 4)),
        ("scaled", Scaled()), ("out", nn.Linear(4, 3)),
    ])).double().eval()
    made.scaled.deque = Deque([1.])  # of which no code of the model reads the class
    return made


def place(path, value=-1.):
    """Set an attribute of the module with attributes of all kinds."""
    def change(model, patch):
        *owners, name = path.split(".")
        setattr(functools.reduce(lambda owner, part: owner[int(part)] if part.isdigit() else getattr(owner, part),
                                 owners, model.scaled), name, value)
    return change


def in_module(name, value, module=None):
    """Set a global."""
    return lambda model, patch: patch.setattr(module or sys.modules[__name__], name, value)


def item(name, key, value):
    return lambda model, patch: getattr(model.scaled, name).__setitem__(key, value)


def of_class(name, value, cls=Scaled):
    return lambda model, patch: patch.setattr(cls, name, value, raising=False)


def inner(self, x, by=-1., *, more=[1.]):  # noqa: B006
    return x * by * more[0]


def inner_more(self, x, by=1., *, more=[-1.]):  # noqa: B006
    return x * by * more[0]


def hooked(name, hook, **options):
    return lambda model, patch: getattr(model.fc, name)(hook, **options) and None


def negate(module, inputs, output):
    return -output


def scale_by_global(module, inputs, output):
    return output * SCALE


def parametrized(model, patch):
    class Negative(nn.Module):
        def forward(self, weight):
            return -weight

    parametrize.register_parametrization(model.fc, "weight", Negative())


CHANGES = {
    "public attribute": place("public"), "private attribute": place("_private"),
    "namespace": place("namespace.scale"), "private namespace": place("_namespace.scale"),
    "dataclass": place("settings.scale"), "slots": place("slotted.scale"), "enum": place("mode", Mode.DOWN),
    "object in a list": place("in_list.0.scale"), "object in an object": place("in_object.scale.scale"),
    "object in an array": place("objects.0.scale"), "callable": place("callable.scale"),
    "object in a tuple in a dict": lambda model, patch: setattr(model.scaled.in_dict["a"][0], "scale", -1.),
    "function": place("function", lambda x: -x),
    "function and what it closes over": place("function", (lambda by: lambda x: x * by)(Scale(-1.))),
    "partial": place("partial", functools.partial(torch.mul, other=-1.)), "tensor": place("tensor", -torch.ones(())),
    "array": place("array", -np.ones(())), "set": place("several", {"a", "b", "d"}),
    "deque": lambda model, patch: model.scaled.deque.append(-1.),
    "module in a list": lambda model, patch: model.scaled.outside[0].weight.data.neg_(),
    "buffer that is not saved": lambda model, patch: model.scaled.unsaved.neg_(),
    "global": in_module("SCALE", -1.), "global tensor": in_module("TENSOR", -torch.ones(())),
    "global array": in_module("ARRAY", -np.ones(())), "global dict": in_module("TABLE", {"a": [-1.]}),
    "content of a global dict": lambda model, patch: patch.setitem(TABLE, "a", [-1.]),
    "global object": lambda model, patch: patch.setattr(HOLDER, "scale", -1.),
    "helper": in_module("twice_removed", lambda x: -x), "helper of a helper": in_module("removed", lambda x: -x),
    "helper with a memory": in_module("remembered", functools.lru_cache(lambda scale: -scale)),
    "helper in another module": in_module("shift", lambda x: -x, helpers),
    "global of another module": in_module("scale", -1., helpers),
    "global that a helper in another module reads": in_module("factor", -1., helpers),
    "class attribute": of_class("scale", -1.), "dict of a class": of_class("table", {"a": -1.}),
    "property": of_class("shown", property(lambda self: -1.)),
    "static method": of_class("still", staticmethod(lambda x: -x)),
    "default": of_class("inner", inner), "mutable default of a keyword": of_class("inner", inner_more),
    "method": of_class("inner", lambda self, x: -x),
    "attribute of a helper class": of_class("factor", -1., Scale),
    "method of the class of an object": of_class("total", lambda self: -sum(self), Deque),
    "method of a helper class": of_class("__call__", lambda self, x: -x, Scale),
    "forward on the object": lambda model, patch: setattr(
        model.scaled, "forward", types.MethodType(lambda self, x: Scaled.forward(self, -x), model.scaled)),
    "forward of a library's module": lambda model, patch: setattr(model.relu, "forward", lambda x: -torch.relu(x)),
    "private attribute of a library's module": lambda model, patch: setattr(model.relu, "_scale", -1.),
    "train mode": lambda model, patch: model.train() and None,
    "hook": hooked("register_forward_hook", negate),
    "hook before": hooked("register_forward_pre_hook", lambda module, inputs: (-inputs[0],)),
    "backward hook": hooked("register_full_backward_hook", lambda module, inputs, outputs: (-inputs[0],)),
    "hook of an object": hooked("register_forward_hook", Scale(-1.).hook),
    "hook with keywords": hooked("register_forward_hook", Scale(-1.).hook_with_keywords, with_kwargs=True),
    "partial as hook": hooked("register_forward_hook", functools.partial(negate)),
    "parametrization": parametrized,
    "weight norm": lambda model, patch: parametrizations.weight_norm(model.fc) and None,
    "weights": lambda model, patch: model.fc.weight.data.neg_(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_gives_another_fingerprint(name, monkeypatch):
    made = model()
    before = model_fingerprint(made)
    assert model_fingerprint(model()) == model_fingerprint(made) == before
    CHANGES[name](made, monkeypatch)
    assert model_fingerprint(made) != before


@pytest.fixture(scope="module")
def store(tmp_path_factory, quick):
    return sweep(tmp_path_factory.mktemp("swept") / "store", model=model()).path


def refusals(path, changed):
    """What a sweep and what reading say of a model."""
    fv = visualization(path, model=changed)
    composite = EpsilonPlusFlat()
    for use in (
        lambda: fv.run(composite, 0, len(fv.dataset), 4, 2),
        lambda: fv.get_max_reference([0], "conv", "relevance", (0, 2), composite, plot_fn=None),
    ):
        try:
            yield use() and ""
        except StoreError as error:
            yield str(error)


NOTICED = {
    "private attribute": "model.private.scaled", "dataclass": "model.attributes.scaled", "global": "model.code",
    "helper": "model.code", "hook of an object": "model.hooks.fc", "forward on the object": "model.attributes.scaled",
    "buffer that is not saved": "model.weights", "mutable default of a keyword": "model.code",
}


@pytest.mark.parametrize("name", NOTICED)
def test_sweeps_and_reading_refuse_a_changed_model_by_name(store, name, monkeypatch):
    assert list(refusals(store, model())) == ["", ""]
    changed = model()
    CHANGES[name](changed, monkeypatch)
    assert all(NOTICED[name] in said for said in refusals(store, changed))


def test_hook_objects_are_told_apart_by_what_they_hold_and_what_they_read(monkeypatch):
    prints = []
    for scale in (1., 1., 2.):
        made = model()
        made.fc.register_forward_hook(Scale(scale).hook)
        prints.append(model_fingerprint(made))
    assert prints[0] == prints[1] != prints[2]
    made.fc.register_forward_hook(scale_by_global)
    before = model_fingerprint(made)
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 2.)
    assert model_fingerprint(made)["code"] != before["code"]


# What does not count

def generate():
    yield 1


HARMLESS = {
    "lock": threading.Lock, "logger": lambda: logging.getLogger(str(next(numbers))), "file": io.StringIO,
    "generator": generate, "weak reference": lambda: weakref.ref(Mode), "moment": datetime.datetime.now,
    "handle of a hook": lambda: nn.ReLU().register_forward_hook(negate),
    "thread": lambda: threading.Thread(name=str(next(numbers))), "optimizer": lambda: torch.optim.SGD(
        [nn.Parameter(torch.tensor(float(next(numbers))))]), "device": lambda: torch.device("cpu", next(numbers)),
    "random numbers": lambda: torch.Generator().manual_seed(next(numbers)),
    "object": object, "objects": lambda: {"a": [object(), threading.Condition()]},
}
numbers = itertools.count()


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_belongs_to_a_run_of_a_program_does_not_count(kind):
    prints = []
    for _ in range(2):
        made = model()
        made.scaled.public, made.scaled._private = HARMLESS[kind](), HARMLESS[kind]()
        made.scaled.callable.scale = HARMLESS[kind]()
        prints.append(model_fingerprint(made))
    assert prints[0] == prints[1]


def test_globals_that_nothing_reads_do_not_count(monkeypatch):
    before = model_fingerprint(model())
    monkeypatch.setattr(sys.modules[__name__], "CACHE", {1: 2})
    monkeypatch.setattr(helpers, "unused", 2.)
    assert model_fingerprint(model()) == before


def test_copies_and_what_workers_get_are_the_same():
    made = model()
    made.fc.register_forward_hook(Scale(1.).hook)
    made.scaled.forward = types.MethodType(lambda self, x: Scaled.forward(self, -x), made.scaled)
    expected = model_fingerprint(made)
    assert model_fingerprint(copy.deepcopy(made)) == expected
    assert model_fingerprint(cloudpickle.loads(cloudpickle.dumps(made))) == expected
    assert model_fingerprint(made.to("cpu")) == expected


class Counting(nn.Module):
    calls = 0

    def __init__(self):
        super().__init__()
        self._last, self.seen = None, types.SimpleNamespace(count=0)

    def forward(self, x):
        Counting.calls += 1
        CACHE[len(CACHE)] = x
        self._last, self.seen.count = x, self.seen.count + 1
        return x


def test_what_a_pass_changes_is_found_and_exempt():
    made = nn.Sequential(Counting(), nn.ReLU())
    passing = changed_by(lambda: made(torch.rand(1)), made)
    assert passing == ["0._last", "0.seen", "class Counting.calls", "global CACHE"]
    before = model_fingerprint(made, passing)
    made(torch.rand(2))
    assert model_fingerprint(made, passing) == before != model_fingerprint(made)


def test_sweeps_of_models_that_keep_what_passes_do_go_on(tmp_path):
    changing = model()
    changing.relu = Counting()
    sweep(tmp_path, model=changing)
    assert list(refusals(tmp_path, changing)) == ["", ""]


SCRIPT = """
import sys
sys.path[:0] = {paths}
from test_model_fingerprint import Scale, model
from crp.sweeps.model_fingerprint import model_fingerprint
made = model()
made.fc.register_forward_hook(Scale(1.).hook)
print(model_fingerprint(made))
"""


@pytest.mark.slow
def test_the_fingerprint_is_the_same_in_every_process():
    script = SCRIPT.format(paths=[str(Path(__file__).parent), str(Path(__file__).parents[1])])
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    there = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
                           capture_output=True, text=True).stdout
    made = model()
    made.fc.register_forward_hook(Scale(1.).hook)
    assert there == f"{model_fingerprint(made)}\n"


# What the model answers

class FromElsewhere(nn.Module):
    """Computes with what no hash sees."""

    def forward(self, x):
        return x * float(os.environ["SCALE"])


def from_elsewhere():
    made = model()
    made.relu = FromElsewhere()
    return made


def test_other_answers_of_a_model_with_the_same_fingerprint_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALE", "1")
    sweep(tmp_path, model=from_elsewhere())
    monkeypatch.setenv("SCALE", "1.0001")
    assert list(refusals(tmp_path, from_elsewhere())) == ["", ""]
    monkeypatch.setenv("SCALE", "-1")
    for said in refusals(tmp_path, from_elsewhere()):
        assert "model.answers: the model answers otherwise to the first sample (" in said


def ask(made, data=None):
    fv = visualization("unused", data=data, model=made)
    return model_answers(made, lambda *part: fv.batches(*part, on_error="skip"), len(fv.dataset))


class Output(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output(x)


@pytest.mark.parametrize("output, answers", [
    (lambda x: torch.arange(63.)[None], [2. * i for i in range(32)]), (lambda x: torch.ones(1, 3) / 0, None),
    (lambda x: {"a": (torch.tensor([1., float("nan")]), None), "b": torch.tensor(2.)}, [1., 2.]),
    (lambda x: x.argmax()[None], None), (lambda x: torch.rand(1, 3), None), (lambda x: x.fail(), None),
], ids=["even", "infinite", "nested", "integers", "random", "error"])
def test_answers_are_picked_evenly_where_there_are_any(output, answers):
    assert ask(Output(output)) == answers


def test_random_numbers_are_as_before_models_are_asked():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    ask(Output(lambda x: torch.rand(1, 3)))
    assert torch.equal(torch.rand(2), expected)


def test_the_first_sample_that_can_be_had_is_asked():
    images = dataset().tensors[0].clone()
    images[0] = float("nan")
    assert ask(model(), TensorDataset(images, single_targets())) == ask(model(), TensorDataset(images[1:],
                                                                                               single_targets()[1:]))


def test_a_dataset_that_gives_others_each_time_has_no_answers(tmp_path):
    class Random(list):
        def __getitem__(self, index):
            return torch.from_numpy(np.random.default_rng().random((1, 6, 6))), 0

    with pytest.warns(UserWarning, match="other samples each time"):
        path = sweep(tmp_path, model=model(), data=Random(range(4))).path
    assert place_of_store(path).manifest.settings.model.answers is None
    fv = visualization(path, data=Random(range(4)), model=model())
    assert fv.get_max_reference([0], "conv", "activation", (0, 1), plot_fn=None)


@pytest.mark.parametrize("there, here, is_apart", [
    ([1., -2.], [1., -2.], False), ([1., -2.], [1. + 2 * ANSWER_TOLERANCE * .9, -2.], False),
    ([1., -2.], [1. + 2 * ANSWER_TOLERANCE * 1.1, -2.], True), ([0.], [0.], False), ([1.], [1., 1.], True),
    ([1e-30], [-1e-30], True),
])
def test_answers_differ_by_more_than_rounding(there, here, is_apart):
    assert (differing_answers(there, here) is not None) == (differing_answers(here, there) is not None) == is_apart


def test_reading_asks_again_only_after_changes(store, monkeypatch):
    asked = []
    monkeypatch.setattr("crp.visualization.reading.model_answers", lambda *_: asked.append(1))
    fv = visualization(store, model=model())
    for _ in range(3):
        fv.compute_stats(0, "conv", "activation")
    assert len(asked) == 1


def test_workers_compare_answers_too(store, monkeypatch):
    fv = visualization(store, model=model())
    made = Sweep(fv.attribution, LAYERS, EpsilonPlusFlat(), store, fv.batches, len(fv.dataset), batch_size=4,
                 checkpoint=2)
    assert made.settings["model"]["answers"] == place_of_store(store).manifest.settings.model.answers
