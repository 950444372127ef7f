"""A digest of user code and its arguments that comes out the same in every process that holds the same.

Pickles do not serve for this: cloudpickle gives each class that it ships by value a random id, string interning
decides what pickle writes twice, sets iterate in an order that changes from run to run, and every code object carries
its line numbers. So this walks the values themselves and digests what they mean: the instructions of functions and not
their lines, the members of sets in sorted order, and for code that travels as a reference the user's source files that
it comes from.
"""

from __future__ import annotations

import copyreg
import enum
import hashlib
import types
from collections.abc import Callable, Iterable
from typing import Any

from cloudpickle import cloudpickle as cloudpickle_internals

from headrace.module_source import source_digest
from headrace.serialization import CodePickler, find_place

# What the interpreter or a library derives from the rest of a class and that differs from process to process.
_DERIVED_CLASS_ATTRIBUTES = frozenset(
    {"__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__", "__static_attributes__", "_abc_impl"}
)
# Made from types that are digested anyway; in them those types are named by their addresses in memory.
_COMPILED_SCHEMAS = frozenset(
    {
        "pydantic.type_adapter.TypeAdapter",
        "pydantic_core._pydantic_core.SchemaSerializer",
        "pydantic_core._pydantic_core.SchemaValidator",
    }
)
_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))


def fingerprint(obj: Any, replace: Callable[[Any], Any] = lambda obj: obj) -> str:
    """Digest of `obj` as 32 hexadecimal digits.

    `replace` is asked for every value that is not atomic: what it returns is digested in the value's place.

    Raises:
        Exception: whatever a value raises when it is asked for its state (`__reduce_ex__`).
    """
    return _Digest(replace, {}).of(obj).hex()


class _Digest:
    def __init__(self, replace: Callable[[Any], Any], seen: dict[int, int]) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._replace = replace
        self._seen = seen
        # Ids are only unique among living objects: what reducers build on the fly has to live as long as the walk.
        self._alive: list[Any] = []

    def of(self, obj: Any) -> bytes:
        self.add(obj)
        return self._hash.digest()

    def add(self, obj: Any) -> None:
        if type(obj) in _ATOMS:
            self._tag(type(obj).__name__, repr(obj) if not isinstance(obj, bytes) else obj)
            return
        obj = self._replace(obj)
        # Immutable constants are one object or several equal ones as compiler and cache like: their identity tells
        # nothing. Cycles always lead through something else.
        if type(obj) not in (tuple, frozenset, types.CodeType):
            if id(obj) in self._seen:
                self._tag("seen", str(self._seen[id(obj)]))
                return
            self._seen[id(obj)] = len(self._seen)
            self._alive.append(obj)
        self._add_object(obj)

    def _tag(self, kind: str, content: str | bytes = b"") -> None:
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        self._hash.update(f"{kind}:{len(data)}:".encode())
        self._hash.update(data)

    def _add_each(self, kind: str, items: Iterable[Any]) -> None:
        items = list(items)
        self._tag(kind, str(len(items)))
        for item in items:
            self.add(item)

    def _add_object(self, obj: Any) -> None:
        kind = type(obj)
        if kind in (list, tuple):
            self._add_each(kind.__name__, obj)
        elif kind in (dict, types.MappingProxyType):
            self._add_each("dict", [part for item in obj.items() for part in item])
        elif kind in (set, frozenset):
            self._add_unordered(obj)
        elif isinstance(obj, types.FunctionType):
            self._add_function(obj)
        elif isinstance(obj, type):
            self._add_class(obj)
        elif isinstance(obj, types.ModuleType):
            self._add_module(obj.__name__)
        elif isinstance(obj, types.CodeType):
            self._add_code(obj)
        elif isinstance(obj, classmethod | staticmethod):
            self._add_each(kind.__name__, [obj.__func__])
        elif isinstance(obj, property):
            self._add_each("property", [obj.fget, obj.fset, obj.fdel])
        elif isinstance(obj, types.CellType):
            self._add_cell(obj)
        elif isinstance(obj, bytearray | memoryview):
            self._tag(kind.__name__, bytes(obj))
        else:
            self._add_reduced(obj)

    def _add_unordered(self, items: Iterable[Any]) -> None:
        digests = sorted(_Digest(self._replace, dict(self._seen)).of(item) for item in items)
        self._tag("set", b"".join(digests))

    def _add_module(self, name: str) -> None:
        self._tag("module", name)
        self._tag("source", source_digest(name))

    def _add_place(self, obj: Any) -> bool:
        """Digests the source of what travels as a reference; False if `obj` travels by value."""
        place = find_place(obj)
        if place is None or not place.importable:
            return False
        self._tag("name", place.qualname)
        self._add_module(place.module)
        return True

    def _add_function(self, function: types.FunctionType) -> None:
        if self._add_place(function):
            return
        self._tag("function", function.__qualname__)
        self._add_code(function.__code__)
        self._add_each("defaults", function.__defaults__ or ())
        self.add(function.__kwdefaults__)
        self.add(function.__annotations__)
        self.add(function.__dict__)
        self._add_each("closure", function.__closure__ or ())
        for name in sorted(cloudpickle_internals._extract_code_globals(function.__code__)):
            if name in function.__globals__:
                self._tag("global", name)
                self.add(function.__globals__[name])

    def _add_code(self, code: types.CodeType) -> None:
        self._tag("code", code.co_code)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        self._tag("signature", repr((names, counts)))
        self._add_each("constants", code.co_consts)

    def _add_cell(self, cell: types.CellType) -> None:
        try:
            self._add_each("cell", [cell.cell_contents])
        except ValueError:  # empty: the variable has not been assigned yet
            self._tag("empty cell")

    def _add_class(self, cls: type) -> None:
        if self._add_place(cls):
            return
        self._tag("class", cls.__qualname__)
        self._add_each("bases", cls.__bases__)
        self.add(type(cls))
        if issubclass(cls, enum.Enum):
            self._add_each("members", [part for item in cls.__members__.items() for part in (item[0], item[1].value)])
        for name, value in sorted(vars(cls).items()):
            if name in _DERIVED_CLASS_ATTRIBUTES or isinstance(
                value, types.GetSetDescriptorType | types.MemberDescriptorType
            ):
                continue
            if name.startswith("__pydantic_") and name != "__pydantic_fields__":
                continue
            if issubclass(cls, enum.Enum) and (name in cls.__members__ or name.startswith("_")):
                continue
            self._tag("attribute", name)
            self.add(value)

    def _add_reduced(self, obj: Any) -> None:
        kind = f"{type(obj).__module__}.{type(obj).__qualname__}"
        if kind in _COMPILED_SCHEMAS:
            self._tag("schema", kind)
            self.add(getattr(obj, "_type", None))
            return
        reducer = CodePickler.dispatch_table.get(type(obj)) or copyreg.dispatch_table.get(type(obj))
        reduced = reducer(obj) if reducer is not None else obj.__reduce_ex__(4)
        self._alive.append(reduced)
        if isinstance(reduced, str):
            self._tag("global", f"{getattr(obj, '__module__', '')}:{reduced}")
            self.add(getattr(obj, "__wrapped__", None))  # functools.cache and the like
            return
        parts: tuple[Any, ...] = (*reduced, None, None, None)
        function, arguments, state, list_items, dict_items = parts[:5]
        self._tag("object", type(obj).__qualname__)
        self.add(function)
        self.add(arguments)
        self.add(state)
        self._add_each("items", list_items or ())
        self._add_each("entries", [part for item in dict_items or () for part in item])
