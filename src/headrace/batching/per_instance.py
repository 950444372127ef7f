"""State that belongs to an instance of a user's class, kept beside it: nothing is written on the instance.

So instances can be copied and pickled, and classes with `__slots__` or without `__hash__` work.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from headrace.exceptions import ConfigTypeError

S = TypeVar("S")


class PerInstance(Generic[S]):
    """One `S` for each instance, made on first use, dropped with the instance. None stands for a plain function.

    Args:
        make: makes the state of an instance that has none yet. It must not hold on to the instance.
    """

    __slots__ = ("__weakref__", "_entries", "_lock", "_make", "_of_function")

    def __init__(self, make: Callable[[], S]) -> None:
        self._make = make
        self._of_function: S | None = None
        # By identity, for an instance may be unhashable or equal to another one.
        self._entries: dict[int, tuple[weakref.ref[object], S]] = {}
        self._lock = threading.Lock()  # two threads may ask for a new state at once

    def of(self, instance: object | None) -> S:
        """The state of `instance`.

        Raises:
            ConfigTypeError: the instance's class has `__slots__` without `__weakref__`.
        """
        if instance is None:
            return self._of_function if self._of_function is not None else self._new_for_function()
        entry = self._entries.get(id(instance))
        if entry is not None and entry[0]() is instance:
            return entry[1]
        return self._new_entry(instance)

    def all(self) -> list[S]:
        """The states that exist."""
        made = [state for _, state in list(self._entries.values())]
        return made if self._of_function is None else [self._of_function, *made]

    def _new_for_function(self) -> S:
        with self._lock:
            if self._of_function is None:
                self._of_function = self._make()
            return self._of_function

    def _new_entry(self, instance: object) -> S:
        key, store = id(instance), weakref.ref(self)

        def forget(reference: weakref.ref[object]) -> None:
            alive = store()
            entry = alive._entries.get(key) if alive is not None else None
            # Another instance may live at the same address by now.
            if alive is not None and entry is not None and entry[0] is reference:
                del alive._entries[key]

        try:
            reference = weakref.ref(instance, forget)
        except TypeError:
            raise ConfigTypeError(
                f"{type(instance).__qualname__} cannot be referred to weakly: add '__weakref__' to its __slots__"
            ) from None
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry[0]() is not instance:
                entry = self._entries[key] = (reference, self._make())
            return entry[1]
