"""Copies of FastAPI and Starlette applications: within the process, and (by teaching pickle) to other processes.

An application's object graph mixes the framework's objects (routers, routes, …), which have to be copied so that one
can be changed without the other, and the user's (endpoints, dependencies, state), which have to stay the same objects.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
import sys
import types
from collections import deque
from typing import Any

import cloudpickle

FRAMEWORKS = frozenset({"fastapi", "starlette"})

_CONTAINERS = (
    type(None),
    bool,
    int,
    float,
    str,
    bytes,
    list,
    tuple,
    dict,
    set,
    frozenset,
    deque,
    types.CellType,
    types.MethodType,
    functools.partial,
)


def is_framework_app(app: Any) -> bool:
    """Whether `app` is an application or router of Starlette's or FastAPI's, or of a class derived from one."""
    applications = sys.modules.get("starlette.applications")
    routing = sys.modules.get("starlette.routing")
    return (applications is not None and isinstance(app, applications.Starlette)) or (
        routing is not None and isinstance(app, routing.Router)
    )


def copy_app(app: Any) -> Any:
    """A copy of a Starlette or FastAPI application whose routes and middleware can be changed on their own.

    Shared with the original are the user's functions and objects, the application's `state`, and its
    `dependency_overrides`: code that knows the application by its global name goes on to mean the same things.
    """
    buffer = io.BytesIO()
    copier = _AppCopier(buffer)
    # What code outside reaches through the application's global name.
    copier.share(getattr(app, "state", None), getattr(app, "dependency_overrides", None))
    copier.dump(app)
    buffer.seek(0)
    copy = _SharingUnpickler(buffer, copier.shared).load()
    if getattr(copy, "middleware_stack", None) is not None and hasattr(copy, "build_middleware_stack"):
        copy.middleware_stack = None  # built at the first request, for what the application was then
    return copy


def install_app_pickling() -> None:
    """Teaches `pickle` the parts of Starlette and FastAPI applications that it fails on. May be called often."""
    datastructures = sys.modules.get("starlette.datastructures")
    if datastructures is not None:
        copyreg.pickle(datastructures.State, _reduce_state)
    included_router = getattr(sys.modules.get("fastapi.routing"), "_IncludedRouter", None)
    if included_router is not None:
        copyreg.pickle(included_router, _reduce_included_router)


class _AppCopier(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles the framework's objects by value and refers to all others by their place in `shared`."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.shared: list[Any] = []
        self._places: dict[int, int] = {}

    def share(self, *values: Any) -> None:
        for value in values:
            if value is not None:
                self._place(value)

    def persistent_id(self, obj: Any) -> int | None:
        if (place := self._places.get(id(obj))) is not None:
            return place
        return None if _is_of_framework(obj) else self._place(obj)

    def _place(self, obj: Any) -> int:
        self.shared.append(obj)  # keeps it alive, and so its id unique
        self._places[id(obj)] = len(self.shared) - 1
        return len(self.shared) - 1


class _SharingUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, shared: list[Any]) -> None:
        super().__init__(file)
        self._shared = shared

    def persistent_load(self, pid: Any) -> Any:
        return self._shared[pid]


def _is_of_framework(obj: Any) -> bool:
    if isinstance(obj, type | types.ModuleType | types.BuiltinFunctionType):
        return False
    if isinstance(obj, types.FunctionType):
        # Closures that the framework made (`FastAPI.setup.<locals>.openapi`) refer to the application they serve.
        return obj.__closure__ is not None and _is_framework_module(obj.__module__)
    if type(obj) in _CONTAINERS:
        return True
    return any(_is_framework_module(base.__module__) for base in type(obj).__mro__)


def _is_framework_module(name: str | None) -> bool:
    return name is not None and name.partition(".")[0] in FRAMEWORKS


def _reduce_state(state: Any) -> tuple[Any, ...]:
    # Its `__getattr__` looks into itself, which never ends on an object that is only half unpickled.
    return type(state), (state._state,)


def _reduce_included_router(router: Any) -> tuple[Any, ...]:
    # The rest of it is a lock and caches of what follows from these two.
    return type(router), (router.original_router, router.include_context)
