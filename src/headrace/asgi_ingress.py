"""`ingress`: an ASGI application, FastAPI's above all, answers the HTTP requests of a deployment."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any, TypeVar, overload

from .exceptions import ConfigError
from .router.asgi_app_copy import copy_app, install_app_pickling, is_framework_app
from .router.ingress_app import BUILD_METHOD, ENDPOINT_MARK, INGRESS_ATTRIBUTE, IngressApp, is_route_of

T = TypeVar("T")


class IngressDecorator:
    """What `ingress` returns: a class decorator, which makes a class of its own where it is called with none."""

    def __init__(self, app: Any) -> None:
        self._app = app

    @overload
    def __call__(self, cls: type[T]) -> type[T]: ...

    @overload
    def __call__(self, cls: None = None) -> type[Any]: ...

    def __call__(self, cls: type[Any] | None = None) -> type[Any]:
        if cls is None:
            cls = _plain_ingress_class()
        _check_class(cls, self._app)
        # A subclass: the class itself stays free to be decorated with another application.
        body = {
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
            INGRESS_ATTRIBUTE: _ingress_app(self._app, cls),
        }
        return types.new_class(cls.__name__, (cls,), exec_body=lambda namespace: namespace.update(body))


def ingress(app: Any = None) -> IngressDecorator:
    """Lets an ASGI application answer the HTTP and WebSocket requests of a deployment class.

    ```python
    app = FastAPI()

    @serve.deployment
    @serve.ingress(app)
    class Translator:
        @app.get("/translate")
        async def translate(self, text: str) -> str: ...
    ```

    Routes of a FastAPI application that are methods of the class get the replica's instance as `self`. The application
    is taken as it is at the decoration: what is added to it later does not show in this class.

    Args:
        app: a FastAPI application or router, any other ASGI application, or a function without arguments that returns
            one (it may be `async`; it runs in each replica). None if the class has a method `__serve_build_asgi_app__`,
            which is called after the constructor and returns the application.

    Returns:
        A class decorator. Called with no class it makes one: `serve.deployment(serve.ingress(app)())`.

    Raises:
        ConfigError: `app` is no application; or, from the decorator, what is decorated is no class, or has `__call__`.
    """
    if inspect.isclass(app):
        raise ConfigError(
            f"ingress(app): expected an ASGI application, got the class {app.__qualname__!r}. "
            "Write `@serve.ingress(app)`, with the application in the parentheses."
        )
    if app is not None and not callable(app):
        raise ConfigError(f"ingress(app): expected an ASGI application or a function that builds one, got {app!r}")
    return IngressDecorator(app)


def _plain_ingress_class() -> type[Any]:
    class ASGIIngressDeployment:
        """Has no code of its own: the application answers everything."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.args = args
            self.kwargs = kwargs

    return ASGIIngressDeployment


def _check_class(cls: Any, app: Any) -> None:
    if not inspect.isclass(cls):
        hint = " Put @serve.ingress below @serve.deployment." if hasattr(cls, "bind") else ""
        raise ConfigError(f"@serve.ingress decorates a class, not {cls!r}.{hint}")
    if any("__call__" in vars(base) for base in cls.__mro__):
        raise ConfigError(
            f"{cls.__qualname__} has a method __call__, which would never be called: with @serve.ingress the "
            "application answers all requests. Make it a route, such as `@app.get('/')`, or remove @serve.ingress."
        )
    if app is None and not hasattr(cls, BUILD_METHOD):
        raise ConfigError(f"ingress() without an application needs {cls.__qualname__} to define {BUILD_METHOD}")


def _ingress_app(app: Any, cls: type) -> IngressApp:
    if app is None:
        return IngressApp()
    if is_framework_app(app):
        install_app_pickling()
        for endpoint in _endpoints(app):
            if is_route_of(endpoint, cls) and hasattr(endpoint, "__dict__"):
                setattr(endpoint, ENDPOINT_MARK, True)
        return IngressApp(app=copy_app(app))
    return IngressApp(factory=app) if _is_factory(app) else IngressApp(app=app)


def _is_factory(app: Any) -> bool:
    """A function that can be called without arguments builds an application; one that cannot, is one."""
    if not inspect.isfunction(app):
        return False
    parameters = inspect.signature(app).parameters.values()
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _endpoints(app: Any) -> Iterator[Any]:
    routing = sys.modules.get("fastapi.routing")
    included_router = getattr(routing, "_IncludedRouter", None)
    for route in app.routes:
        if included_router is not None and isinstance(route, included_router):
            yield from _endpoints(route.original_router)
        elif hasattr(route, "endpoint"):
            yield route.endpoint
