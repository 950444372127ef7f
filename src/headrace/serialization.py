"""How user code and the arguments of deployments become bytes for other processes.

This is the way of code: classes, functions and constructor arguments, once per deployment. Values of requests go
through the wire's own codec.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import pickle
import sys
import types
import typing
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as cloudpickle_internals

from headrace.exceptions import SerializationError
from headrace.module_source import is_importable_elsewhere

MAX_DEPTH_OF_EXPLANATION = 12

# A dataclass that travels by value has these in its fields, where they are told by identity: send their names.
_DATACLASS_SENTINELS = {
    id(getattr(dataclasses, name)): name
    for name in ("MISSING", "KW_ONLY", "_HAS_DEFAULT_FACTORY")
    if hasattr(dataclasses, name)
}


class CodePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """A cloudpickle pickler that ships user code so that it means the same in the other process.

    - What another process can import travels as a reference, also where the module's name leads to a `Deployment`
      (`@deployment class Model`: `module.Model` is the deployment, not the class). The class then shares its
      module's globals with the module's functions, as it does here.
    - What another process cannot import (`__main__`, notebooks, modules loaded from a path) travels by value.
    - Functions and classes that travel by value take along what their annotations name, also where those are
      strings (`from __future__ import annotations`), so that type hints resolve over there.

    Attributes:
        modules: names of the modules that what was pickled refers to.
    """

    def __init__(self, file: Any, buffer_callback: Callable[[Any], Any] | None = None) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        self.modules: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, types.ModuleType):
            self.modules.add(obj.__name__)
        if not isinstance(obj, type | types.FunctionType):
            return _DATACLASS_SENTINELS.get(id(obj)) or super().reducer_override(obj)
        place = find_place(obj)
        if place is None:
            reduced = super().reducer_override(obj)
            return _with_resolved_annotations(obj, reduced) if isinstance(obj, type) else reduced
        if place.importable:
            self.modules.add(place.module)
        if place.wrapped:
            return load_deployment_target, (place.module, place.qualname)
        if not place.importable:
            if isinstance(obj, types.FunctionType):
                return self._dynamic_function_reduce(obj)
            return _with_resolved_annotations(obj, cloudpickle_internals._dynamic_class_reduce(obj))
        return super().reducer_override(obj)

    def _dynamic_function_reduce(self, func: types.FunctionType) -> Any:
        reduced = super()._dynamic_function_reduce(func)
        globals_by_name = reduced[2][1]["__globals__"]
        for name in _names_in_annotations(func.__annotations__):
            if name in func.__globals__:
                globals_by_name.setdefault(name, func.__globals__[name])
        return reduced


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A class's or function's place in a module. `wrapped`: the place holds the deployment made of it."""

    module: str
    qualname: str
    wrapped: bool
    importable: bool


_importable: weakref.WeakKeyDictionary[types.ModuleType, bool] = weakref.WeakKeyDictionary()


def find_place(obj: Any) -> Place | None:
    """Where a class or function stands in a module; None where it can only travel by value."""
    module_name, qualname = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if not isinstance(module_name, str) or not isinstance(qualname, str) or module_name == "__main__":
        return None
    module = sys.modules.get(module_name)
    if not isinstance(module, types.ModuleType):
        return None
    importable = _importable.get(module)
    if importable is None:
        importable = _importable[module] = is_importable_elsewhere(module)
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if found is obj:
        return Place(module_name, qualname, wrapped=False, importable=importable)
    if importable and _deployment_target(found) is obj:
        return Place(module_name, qualname, wrapped=True, importable=True)
    return None


def dumps_code(obj: Any) -> bytes:
    """Pickles a class, function or constructor argument for another process; `pickle.loads` reads it.

    Raises:
        SerializationError: something in `obj` cannot leave this process. The message says what, and where it stands.
    """
    buffer = io.BytesIO()
    try:
        CodePickler(buffer).dump(obj)
    except Exception as error:
        raise SerializationError(explain_unserializable(obj, "the value", error)) from error
    return buffer.getvalue()


def loads_code(data: bytes) -> Any:
    """The inverse of `dumps_code`. Only for bytes from a trusted source: unpickling runs code."""
    return pickle.loads(data)


def load_deployment_target(module_name: str, qualname: str) -> Any:
    """The class or function under the deployment that stands at `module_name`.`qualname`."""
    found: Any = importlib.import_module(module_name)
    for part in qualname.split("."):
        found = getattr(found, part)
    target = _deployment_target(found)
    # Between driver and replica the file may have lost its decorator: then the name leads to the class itself.
    return found if target is None else target


def _deployment_target(candidate: Any) -> Any:
    from headrace.deployments import Deployment  # deferred: deployment builds on this module

    return candidate.func_or_class if isinstance(candidate, Deployment) else None


def _names_in_annotations(annotations: dict[str, Any]) -> Iterator[str]:
    for annotation in annotations.values():
        if isinstance(annotation, str):
            try:
                yield from compile(annotation, "<annotation>", "eval").co_names
            except SyntaxError:
                continue


def _with_resolved_annotations(cls: type, reduced: Any) -> Any:
    """`reduced`, with the class's string annotations replaced by what they name, as far as they resolve here.

    `typing.get_type_hints` looks names up in `sys.modules[cls.__module__]`, which in the other process is another
    module (`__main__`) or none.
    """
    if not isinstance(reduced, tuple) or len(reduced) < 3 or not isinstance(reduced[2], tuple):
        return reduced
    class_dict = reduced[2][0]
    annotations = class_dict.get("__annotations__")
    if not annotations or not any(isinstance(annotation, str) for annotation in annotations.values()):
        return reduced
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception:  # an annotation that resolves nowhere, such as one under TYPE_CHECKING
        return reduced
    class_dict["__annotations__"] = {name: hints.get(name, annotation) for name, annotation in annotations.items()}
    for field in class_dict.get("__dataclass_fields__", {}).values():
        if isinstance(field.type, str):
            field.type = hints.get(field.name, field.type)
    return reduced


def explain_unserializable(obj: Any, path: str, error: BaseException | None = None) -> str:
    """One sentence on what in `obj` cannot be pickled, and the path that leads to it from `path`."""
    culprit_path, culprit = find_unserializable(obj, path)
    kind = f"{type(culprit).__module__}.{type(culprit).__qualname__}".removeprefix("builtins.")
    reason = f" ({error})" if error is not None else ""
    return (
        f"{culprit_path} is a {kind}, which cannot be sent to another process{reason}. "
        "Create it inside the deployment, for example in __init__, and pass what it is made from."
    )


def find_unserializable(obj: Any, path: str) -> tuple[str, Any]:
    """Follows the parts of `obj` that cannot be pickled down to the smallest one; returns its path and itself."""
    seen: set[int] = set()
    for _ in range(MAX_DEPTH_OF_EXPLANATION):
        seen.add(id(obj))
        for part_path, part in _parts(obj, path):
            if id(part) not in seen and not is_serializable(part):
                path, obj = part_path, part
                break
        else:
            break
    return path, obj


def is_serializable(obj: Any) -> bool:
    """Whether `dumps_code` can pickle `obj`. Large buffers are not copied for the answer."""
    try:
        # A buffer callback that returns None takes buffers out of band: arrays are then looked at, not copied.
        CodePickler(NullFile(), buffer_callback=lambda _: None).dump(obj)
    except Exception:
        return False
    return True


class NullFile:
    """A file for a pickle that nobody wants to have."""

    def write(self, data: Any) -> int:
        return len(data)


def _parts(obj: Any, path: str) -> Iterator[tuple[str, Any]]:
    """What an object is made of, as pickle sees it, each with a path that a reader recognises."""
    if isinstance(obj, dict):
        for key, value in obj.items():
            yield f"a key of {path}", key
            yield f"{path}[{key!r}]", value
    elif isinstance(obj, list | tuple):
        for index, value in enumerate(obj):
            yield f"{path}[{index}]", value
    elif isinstance(obj, set | frozenset):
        for value in obj:
            yield f"an item of {path}", value
    elif isinstance(obj, types.MethodType):
        yield f"{path}.__self__", obj.__self__
        yield path, obj.__func__
    elif isinstance(obj, types.FunctionType):
        yield from _parts_of_function(obj, path)
    elif isinstance(obj, type):
        for name, value in list(vars(obj).items()):
            if name in {"__dict__", "__weakref__"}:
                continue
            yield f"{path}.{name}", getattr(value, "__func__", value)
    elif isinstance(obj, property):
        yield from ((path, function) for function in (obj.fget, obj.fset, obj.fdel) if function is not None)
    else:
        for name, value in getattr(obj, "__dict__", {}).items():
            yield f"{path}.{name}", value
        for name in getattr(type(obj), "__slots__", ()):
            if hasattr(obj, name):
                yield f"{path}.{name}", getattr(obj, name)


def _parts_of_function(function: types.FunctionType, path: str) -> Iterator[tuple[str, Any]]:
    for name in cloudpickle_internals._extract_code_globals(function.__code__):
        if name in function.__globals__:
            yield f"the global {name!r} that {path} uses", function.__globals__[name]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"the variable {name!r} that {path} uses", cell.cell_contents
        except ValueError:  # the cell is empty: the variable has not been assigned yet
            continue
    for index, default in enumerate(function.__defaults__ or ()):
        yield f"default value {index} of {path}", default
    for name, default in (function.__kwdefaults__ or {}).items():
        yield f"the default of {name!r} of {path}", default
