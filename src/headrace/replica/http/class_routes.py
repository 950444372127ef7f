"""Routes that are methods of an ingress class: bound to the instance that serves them."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, FastAPI, routing
from fastapi.routing import APIRoute, APIWebSocketRoute

from ...exceptions import ConfigError
from ...router.ingress_app import ENDPOINT_MARK, is_route_of

# From 0.137 on FastAPI keeps included routers as nodes of a tree; before, their routes were copied into the parent.
_IncludedRouter: Any = getattr(routing, "_IncludedRouter", None)


def bind_class_routes(app: Any, instance: Any) -> None:
    """Binds the routes of `app` that are methods of the instance's class to the instance, in place.

    A bound method has no `self` left to analyse, so a route is made anew around it. It keeps its position: routes match
    in order. Routes of other ingress classes that were defined on the same application are taken out.

    Raises:
        ConfigError: a route's method takes no `self`.
    """
    cls = type(instance)
    for router in _routers(app.router if hasattr(app, "router") else app):
        kept: list[Any] = []
        for route in router.routes:
            if not isinstance(route, APIRoute | APIWebSocketRoute):
                kept.append(route)
            elif is_route_of(route.endpoint, cls):
                kept.append(_rebuilt(route, _bound(route, instance), app))
            elif not getattr(route.endpoint, ENDPOINT_MARK, False):
                kept.append(route)
        router.routes[:] = kept
        if hasattr(router, "_mark_routes_changed"):
            router._mark_routes_changed()


def as_application(app: Any) -> Any:
    """The application that serves a bare `APIRouter`: its routes need the middleware of one. Others are returned."""
    if not isinstance(app, APIRouter):
        return app
    application = FastAPI()
    application.include_router(app)
    return application


def _routers(router: Any) -> Iterator[Any]:
    yield router
    for route in router.routes:
        if _IncludedRouter is not None and isinstance(route, _IncludedRouter):
            yield from _routers(route.original_router)


def _bound(route: APIRoute | APIWebSocketRoute, instance: Any) -> types.MethodType:
    if not inspect.signature(route.endpoint).parameters:
        raise ConfigError(
            f"{route.endpoint.__qualname__} is the route {route.path!r} but takes no argument; "
            "a method that is a route needs `self` as its first"
        )
    return types.MethodType(route.endpoint, instance)


def _rebuilt(route: APIRoute | APIWebSocketRoute, endpoint: types.MethodType, app: Any) -> Any:
    """A route like `route` around another endpoint. Routes keep their constructor's arguments under the same names."""
    base = APIRoute if isinstance(route, APIRoute) else APIWebSocketRoute
    names = inspect.signature(base.__init__).parameters.keys() - {"self", "endpoint"}
    options = {name: getattr(route, name) for name in names if hasattr(route, name)}
    options.setdefault("dependency_overrides_provider", app)
    if options.get("response_model") is None and getattr(route, "stream_item_type", None) is not None:
        del options["response_model"]  # it was inferred: a None that is passed would forbid to infer it again
    return type(route)(endpoint=endpoint, **options)
