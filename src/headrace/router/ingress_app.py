"""What `@serve.ingress` leaves on a class, for the replica to find."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

INGRESS_ATTRIBUTE = "__headrace_asgi__"
"""Class attribute that holds the `IngressApp` of a class whose HTTP requests an ASGI application answers."""

BUILD_METHOD = "__serve_build_asgi_app__"
"""Method that a class may define to build its application after its constructor has run (the name is Ray Serve's)."""

ENDPOINT_MARK = "__headrace_ingress_endpoint__"
"""Set on functions that are routes of some ingress class, so that another class on the same app leaves them alone."""


class IngressApp:
    """The application of an ingress class.

    Attributes:
        app: the ASGI application, as it was when the class was decorated; None if it is yet to be built.
        factory: builds the application in the replica; None if there is an app, or if the class has `BUILD_METHOD`.
    """

    __slots__ = ("app", "factory")

    def __init__(self, app: Any = None, factory: Callable[[], Any] | None = None) -> None:
        self.app = app
        self.factory = factory


def ingress_app_of(target: Any) -> IngressApp | None:
    """The `IngressApp` of a class or instance; None if it is no ASGI ingress."""
    ingress_app = getattr(target, INGRESS_ATTRIBUTE, None)
    return ingress_app if isinstance(ingress_app, IngressApp) else None


def is_route_of(endpoint: Any, cls: type) -> bool:
    """Whether a route's endpoint was defined as a method in the body of `cls` or of one of its bases.

    Told by name: several routes may share a method's name, and the class keeps only the last of these methods.
    """
    owner, _, name = getattr(endpoint, "__qualname__", "").rpartition(".")
    module = getattr(endpoint, "__module__", None)
    return any(
        base.__qualname__ == owner
        and base.__module__ == module
        and not isinstance(inspect.getattr_static(base, name, None), staticmethod)
        for base in cls.__mro__
        if base is not object
    )
