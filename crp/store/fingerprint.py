"""Short texts that tell whether two models, datasets or composites are the same."""
from __future__ import annotations

import copyreg
import functools
import hashlib
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import nn

from crp.store.user_code import globals_read, is_of_library, reads_of_users

_PLAIN = (bool, int, float, complex, str, bytes, range, torch.dtype, np.generic, type(None))
_OF_A_PASS = {"handles", "hook_refs", "stored_tensors", "tensor_handles", "active"}  # in what zennit made
_OF_A_PROCESS = (  # modules whose objects belong to a run of a program, or train and log
    "threading", "_thread", "logging", "weakref", "_weakrefset", "io", "_io", "socket", "queue", "_queue",
    "multiprocessing", "concurrent", "asyncio", "subprocess", "contextvars", "_contextvars", "datetime", "random",
    "numpy.random", "torch.utils.hooks", "torch.utils.data", "torch.utils.tensorboard", "torch.optim",
    "torch.distributed", "torch.cuda", "torch._dynamo", "tqdm", "lightning", "pytorch_lightning", "lightning_fabric",
)
_DEEPEST = 150  # values in values, as many as Python's stack has room for
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_HOOKS = {name for name, value in vars(nn.Module()).items() if "hook" in name and isinstance(value, dict)}

_Function = TypeVar("_Function", bound=Callable)


def _remembered(of_class: _Function) -> _Function:
    """What a function gives for a class, computed once."""
    return cast(_Function, functools.lru_cache(8192)(of_class))


def fingerprint(value: Any) -> str:
    """sha256 of everything a value consists of: numbers, tensors, attributes, functions with what they close over.

    The code of functions is part of it as this version of Python compiles it, and so are the globals that functions
    read which users wrote. Of libraries only names count, and of what belongs to a run of a program only the kind:
    locks, loggers, weak references, files, handles of hooks, generators of random numbers, moments.
    """
    walk = Walk()
    return walk.sealed(walk.digest(value))


def probe_indices(length: int) -> list[int]:
    """Up to five indices, spread over a dataset, whose samples stand for all."""
    return sorted({round(i * (length - 1) / 4) for i in range(5)})


def is_of_process(value: Any) -> bool:
    """Whether a value belongs to a run of a program: another run has another one without computing otherwise."""
    return _is_kind_of_process(type(value))


@_remembered
def _is_kind_of_process(cls: type) -> bool:
    if issubclass(cls, (torch.device, torch.Generator, torch.Stream)):
        return True
    return any(f"{base.__module__}.".startswith(f"{known}.") for base in cls.__mro__ for known in _OF_A_PROCESS)


@_remembered
def own_classes(cls: type) -> list[type]:
    """A class and its bases, those that users wrote."""
    return [base for base in cls.__mro__ if not is_of_library(base)]


class Walk:
    """Goes through all that values consist of, and notes what their code refers to by name.

    What code refers to is not part of the digest of a value, which stays the same when a global changes: it has a
    digest of its own, once for all values.

    Parameters
    ----------
    ignored : collection of str
        Names of what is left out, as :meth:`met` has them.
    """

    def __init__(self, ignored: Collection[str] = ()):
        self.ignored, self._depth = set(ignored), 0
        self._known: dict[int, tuple[Any, bytes]] = {}
        self._named: dict[tuple[str, int], Any] = {}
        self._to_visit: list[tuple[str, Any]] = []
        self._met: dict[str, list[bytes]] = {}

    def know(self, value: Any, name: str) -> None:
        """Let a value count by a name, wherever it is met."""
        self._known[id(value)] = value, _hash(name)

    def digest(self, value: Any) -> bytes:
        """What a value consists of."""
        if id(value) in self._known:
            return self._known[id(value)][1]
        if isinstance(value, torch.Tensor):
            return _digest_of_tensor(value)
        if isinstance(value, np.ndarray) and value.dtype != object:
            return _hash(f"array {value.dtype.str} {value.shape}", np.ascontiguousarray(value).tobytes())
        if isinstance(value, _PLAIN):
            return _hash(f"{type(value).__name__} {value!r}")
        if isinstance(value, type) and not is_of_library(value):
            return self.refer(value)
        if self._depth == _DEEPEST:
            return _hash(_name(type(value)))
        self._known[id(value)] = value, b"itself"  # keeps it alive, so that its id stays its own, and ends cycles
        self._depth += 1
        parts = [self.digest(part) for part in self._parts(value)]
        self._depth -= 1
        self._known[id(value)] = value, _hash(f"{_name(type(value))} {len(parts)}", *parts)
        return self._known[id(value)][1]

    def refer(self, value: Any, name: str = "global") -> bytes:
        """Note what code refers to; its name, and what can be told without its contents."""
        is_defined = isinstance(value, (type, types.FunctionType))
        if isinstance(value, types.ModuleType) or is_defined and is_of_library(value):
            return _hash(_name(value))
        if is_defined:
            name = f"{'class' if isinstance(value, type) else 'function'} {_name(value)}"
        if (name, id(value)) not in self._named:
            self._named[name, id(value)] = value
            self._to_visit.append((name, value))
        return _hash(name, *_codes(value))

    def met(self) -> dict[str, str]:
        """Digests of all that code refers to by name: functions, classes and their attributes, globals."""
        while self._to_visit:
            name, value = self._to_visit.pop(0)
            if name not in self.ignored:
                self._met.setdefault(name, []).append(self._contents(value))
        return {name: _hash(name, *sorted(found)).hex() for name, found in sorted(self._met.items())}

    def sealed(self, digest: bytes) -> str:
        """The digest of a value together with all that code refers to by name."""
        met = self.met()
        return _hash("with", digest, *map(bytes.fromhex, met.values())).hex() if met else digest.hex()

    def _contents(self, value: Any) -> bytes:
        if not isinstance(value, type):
            return self.digest(value)
        parts = [*self._attributes_of(value), *own_classes(value)[1:]]
        return _hash(f"class {len(parts)}", *map(self.digest, parts))

    def _attributes_of(self, cls: type) -> list:
        """The functions of a class, and references to its other attributes."""
        parts: list[Any] = []
        for name, item in sorted(vars(cls).items()):
            functions = _functions_of(item)
            if functions:
                parts.append((name, functions))
            elif not name.startswith("__") and not isinstance(item, _DESCRIPTORS):
                parts.append((name, self.refer(item, f"class {cls.__name__}.{name}")))
        return parts

    def _parts(self, value: Any) -> list:
        """What a compound value consists of, in a fixed order."""
        if isinstance(value, types.ModuleType):
            return [value.__name__]
        if isinstance(value, type):
            return [_name(value)]
        if is_of_process(value):
            return []
        if isinstance(value, np.ndarray):
            return [value.shape, *value.reshape(-1).tolist()]
        if isinstance(value, functools.partial):
            return [value.func, value.args, value.keywords]
        if isinstance(value, types.MethodType):
            return [value.__func__, value.__self__]
        if isinstance(value, types.FunctionType):
            return self._parts_of_function(value)
        is_container = isinstance(value, (Mapping, set, frozenset, list, tuple))
        parts = self._items(value) if is_container else _parts_of_object(value)
        attributes = [vars(value)] if is_container and getattr(value, "__dict__", None) else []
        return parts + attributes + own_classes(type(value))[:1]

    def _items(self, value: Any) -> list:
        """What a container holds, in an order that does not depend on the process."""
        if isinstance(value, Mapping):
            return [part for item in sorted(value.items(), key=lambda item: self._alone(item[0])) for part in item]
        if isinstance(value, (set, frozenset)):
            return sorted(map(self._alone, value))
        return list(value)

    def _alone(self, item: Any) -> str:
        """The digest of one of several items without an order, which does not depend on those before it."""
        if isinstance(item, _PLAIN) or isinstance(item, tuple) and all(isinstance(part, _PLAIN) for part in item):
            return self.digest(item).hex()
        known = dict(self._known)
        found = self.digest(item).hex()
        self._known = known
        return found

    def _parts_of_function(self, function: types.FunctionType) -> list:
        cells = [_content(cell) for cell in function.__closure__ or ()]
        code = _code(function.__code__)
        parts = [_name(function), function.__defaults__, function.__kwdefaults__, cells, code]
        reads = globals_read(function) if reads_of_users(function) else ()
        found = [(name, self.refer(value, f"global {name}")) for name, value in reads]
        return parts + [extra for extra in (vars(function), found) if extra]


def _parts_of_object(value: Any) -> list:
    cls = type(value)
    attributes, slots = getattr(value, "__dict__", None), _slots_of(value)
    if attributes is None and not slots:
        return [_name(value), *_owner(value)] if hasattr(value, "__qualname__") else _reduced(value)
    state: list[Any] = [
        (key, list(item.values()) if isinstance(value, nn.Module) and key in _HOOKS else item)
        for key, item in sorted({**(attributes or {}), **slots}.items()) if not _is_runtime_state(value, key)
    ]
    says_more = "__reduce__" in _defined(cls) and "__reduce_ex__" not in _defined(cls)
    return [*state, _reduced(value)] if says_more else state


def _owner(function: Any) -> list:
    """The object that a built-in method belongs to, if it does."""
    owner = getattr(function, "__self__", None)
    return [] if owner is None or isinstance(owner, (type, types.ModuleType)) else [owner]


@_remembered
def _defined(cls: type) -> set[str]:
    """Names that a class defines, or a base other than object."""
    return set().union(*(vars(base) for base in cls.__mro__[:-1]))


def _digest_of_tensor(tensor: torch.Tensor) -> bytes:
    tensor = tensor.detach()
    kind = f"tensor {tensor.dtype} {tuple(tensor.shape)}"
    if tensor.is_meta:
        return _hash(kind)
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = tensor.resolve_conj()
    return _hash(kind, tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _hash(kind: str, *contents: Any) -> bytes:
    digest = hashlib.sha256(kind.encode() + b"\0")
    for content in contents:
        digest.update(content)
    return digest.digest()


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def _is_runtime_state(value: Any, name: str) -> bool:
    if isinstance(getattr(type(value), name, None), functools.cached_property):
        return True
    return name in _OF_A_PASS and any(cls.__module__.startswith("zennit.") for cls in type(value).__mro__)


def _slots_of(value: Any) -> dict[str, Any]:
    names = [
        name for cls in own_classes(type(value)) for name, item in vars(cls).items()
        if isinstance(item, types.MemberDescriptorType)
    ]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _reduced(value: Any) -> list:
    """What an object without attributes is made of, as it is copied; where it cannot be copied, only its kind."""
    try:
        registered = copyreg.dispatch_table.get(type(value))
        reduced = value.__reduce_ex__(2) if registered is None else registered(value)
    except Exception:  # whatever an object raises that cannot be copied
        return []
    if isinstance(reduced, str):
        return [reduced.rpartition(".")[2]]
    make, arguments, state, items, pairs = (*reduced, *(None,) * 5)[:5]
    return [_name(make), arguments, state, list(items or ()), list(pairs or ())]


def _functions_of(item: Any) -> list:
    """The functions that an attribute of a class consists of, if it does."""
    if isinstance(item, property):
        return [function for function in (item.fget, item.fset) if function is not None]
    if isinstance(item, (staticmethod, classmethod)):
        return [item.__func__]
    if isinstance(item, functools.cached_property):
        return [item.func]
    wrapped = (getattr(item, "__dict__", None) or {}).get("__wrapped__")
    return [item] if isinstance(item, types.FunctionType) or isinstance(wrapped, types.FunctionType) else []


def _codes(value: Any) -> list[bytes]:
    """Hashes of the code of a function, or of a class's functions, which tell those of one name apart."""
    functions = [item for _, item in sorted(vars(value).items())] if isinstance(value, type) else [value]
    return [_hash("code", item.__code__.co_code) for item in functions if isinstance(item, types.FunctionType)]


def _code(code: types.CodeType) -> list:
    """What a function does, apart from where it stands in its file."""
    constants = [_code(item) if isinstance(item, types.CodeType) else item for item in code.co_consts]
    return [code.co_code, code.co_names, constants]


def _name(value: Any) -> str:
    """Name of a class or function; where users keep theirs does not matter, nor does it survive the way to a worker."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{value.__module__}.{named.__qualname__}" if is_of_library(value) else named.__name__
