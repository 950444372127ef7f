"""The REST API: Ray Serve's, at `/api/serve/applications/`, and a little of our own."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from headrace.config.problems import nearest, written
from headrace.controller.controller import VERSION, Controller
from headrace.controller.observed.live import TRANSPORT_KEY
from headrace.controller.rest_debug import DebugApi
from headrace.controller.rest_guard import Guard
from headrace.controller.rest_health import HealthApi
from headrace.controller.rest_logs import LogsApi
from headrace.controller.rest_observed import ObservedApi
from headrace.controller.rest_pages import Pages
from headrace.controller.rest_playground import Playground
from headrace.controller.rest_schema import SOURCES, instance_details, node_details
from headrace.exceptions import ConfigError
from headrace.observe.exposition import CONTENT_TYPE

logger = logging.getLogger("headrace.controller")

MAX_BODY_BYTES = 16 * 1024 * 1024
RAY_VERSION = "2.60.0"
"""The release of Ray whose REST API this is; Ray's own clients look at it."""
RAY_API_VERSION = "4"


SCALE = "/api/v1/applications/{name}/deployments/{deployment}/scale"
"""Where Ray Serve's external scalers send what they want."""

MAX_TARGET = 10_000
"""Replicas that an external scaler may ask for: a slip of its must not keep the controller busy for ever."""


class RestApi:
    """The endpoints. `app` is the ASGI application, guard included."""

    def __init__(self, controller: Controller, token: str | None) -> None:
        self._controller = controller
        self.observed = ObservedApi(controller)
        applications = "/api/serve/applications"
        self.app: ASGIApp = Starlette(
            routes=[
                *(
                    Route(path, endpoint, methods=[method])
                    # Ray's clients send the slash at the end, people forget it.
                    for path in (applications, f"{applications}/")
                    for method, endpoint in (("GET", self.details), ("PUT", self.put), ("DELETE", self.delete_all))
                ),
                Route(f"{applications}/{{name}}", self.application, methods=["GET"]),
                Route(f"{applications}/{{name}}", self.delete, methods=["DELETE"]),
                Route("/api/headrace/status", self.status, methods=["GET"]),
                Route("/api/headrace/nodes", self.nodes, methods=["GET"]),
                Route("/api/headrace/applications/{name}/history", self.history, methods=["GET"]),
                Route("/api/headrace/applications/{name}/rollback", self.rollback, methods=["POST"]),
                Route(SCALE, self.scale, methods=["POST"]),
                Route("/api/version", self.version, methods=["GET"]),
                Route("/api/ray/version", self.version, methods=["GET"]),
                *HealthApi(controller).routes,
                *self.observed.routes,
                *LogsApi(controller).routes,
                *DebugApi(controller).routes,
                *Pages(actions=token is not None).routes,
                *Playground(controller).routes,
                *(Route(path, self.metrics, methods=["GET"]) for path in ("/metrics", "/-/metrics")),
            ],
            middleware=[Middleware(Guard, token=token)],
            exception_handlers={
                HTTPException: _http_error,
                ConfigError: _config_error,
                Exception: _internal_error,
            },
        )

    async def details(self, request: Request) -> Response:
        """`ServeInstanceDetails`; `?api_type=declarative` or `imperative` leaves out the others."""
        source = request.query_params.get("api_type")
        if source is not None and source.lower() not in SOURCES:
            raise HTTPException(400, f"api_type: must be one of {', '.join(SOURCES)}, not {source!r}")
        status = await self._controller.status()
        return JSONResponse(instance_details(status, self._controller.config, source.lower() if source else None))

    async def application(self, request: Request) -> Response:
        name = request.path_params["name"]
        details = instance_details(await self._controller.status(), self._controller.config)["applications"]
        if name not in details:
            raise HTTPException(404, _no_application(name, details))
        return JSONResponse(details[name])

    async def put(self, request: Request) -> Response:
        """Want exactly the applications of this config. They are built and started after the answer."""
        from headrace.config.schema import ServeDeploySchema  # see `builds`

        given = await _json_body(request)
        problems = ServeDeploySchema.problems_in(given)
        if problems:
            details = [{"field": written(problem.path), "reason": problem.text} for problem in problems]
            text = "; ".join(str(problem) for problem in problems)
            return JSONResponse({"error": text, "problems": details}, status_code=400)
        self._controller.builds.want(given["applications"], given.get("target_capacity"))
        warnings = self._ignored(given)
        for warning in warnings:
            logger.warning("%s", warning)
        return JSONResponse({"warnings": warnings})

    def _ignored(self, given: dict[str, Any]) -> list[str]:
        """What a config says that only the start of an instance can give effect to, where it differs."""
        running = self._controller.config
        options = running.http.model_dump(mode="json") if running.http is not None else {}
        asked = given.get("http_options") or {}
        differ = [f"http_options.{name}" for name, value in asked.items() if options.get(name) != value]
        if given.get("logging_config"):
            differ.append("logging_config")
        asked = given.get("tracing_config") or {}
        traces = running.tracing.model_dump(mode="json")
        differ += [f"tracing_config.{name}" for name, value in asked.items() if traces.get(name) != value]
        return [f"{name} is taken when the instance starts, and was ignored; restart it for that" for name in differ]

    async def delete_all(self, request: Request) -> Response:
        names = {a.name for a in self._controller.application_statuses()}
        self._controller.delete(sorted(names))
        return JSONResponse({})

    async def delete(self, request: Request) -> Response:
        name = request.path_params["name"]
        names = {a.name for a in self._controller.application_statuses()}
        if name not in names:
            raise HTTPException(404, _no_application(name, names))
        self._controller.delete([name])
        return JSONResponse({})

    async def scale(self, request: Request) -> Response:
        """Want `{"target_num_replicas": number}` of a deployment whose application has an external scaler."""
        target = target_num_replicas(await _json_body(request))
        application = self._controller.applications.by_name[self._deployed(request)]
        name = request.path_params["deployment"]
        manager = application.managers.get(name)
        if manager is None:
            raise HTTPException(
                404,
                _no_such(f"deployment '{name}' in application '{application.spec.name}'", name, application.managers),
            )
        if manager.deleting:
            raise HTTPException(412, f"deployment '{name}' is being deleted")
        if not application.spec.external_scaler_enabled:
            raise HTTPException(
                412,
                f"application '{application.spec.name}' takes no numbers of replicas from outside; deploy it with "
                "external_scaler_enabled: true",
            )
        manager.scale(target)
        return JSONResponse({"message": f"deployment '{name}' is scaled to {target} replicas"})

    async def history(self, request: Request) -> Response:
        """What has been deployed as an application, newest first, and to what a rollback returns."""
        name = self._deployed(request)
        return Response(msgspec.json.encode(self._controller.history(name)), media_type="application/json")

    async def rollback(self, request: Request) -> Response:
        """Return to the last good deploy, or with `{"to": number}` to that one. It happens after the answer."""
        name = self._deployed(request)
        body = await _json_body(request, empty={})
        to = body.get("to") if isinstance(body, dict) else body
        if not isinstance(body, dict) or body.keys() - {"to"} or not (to is None or type(to) is int):
            raise HTTPException(400, 'the body must be empty, or {"to": NUMBER} with the number of a deploy')
        reply = self._controller.rollback(name, to)
        return JSONResponse({"rolled_back_to": reply.to, "deploy": reply.number})

    def _deployed(self, request: Request) -> str:
        name: str = request.path_params["name"]
        names = self._controller.applications.by_name
        if name not in names:
            raise HTTPException(404, _no_application(name, names))
        return name

    async def status(self, request: Request) -> Response:
        return Response(msgspec.json.encode(await self._controller.status()), media_type="application/json")

    async def nodes(self, request: Request) -> Response:
        """The machines of the instance, the head first."""
        return JSONResponse({"nodes": node_details(await self._controller.status([]))})

    async def version(self, request: Request) -> Response:
        return JSONResponse(
            {
                "version": RAY_API_VERSION,
                "ray_version": RAY_VERSION,
                "ray_commit": "",
                "session_name": self._controller.session_dir.name,
                "headrace_version": VERSION,
            }
        )

    async def metrics(self, request: Request) -> Response:
        """What a proxy shows at `/-/metrics`: there may be none."""
        return Response(await self._controller.metrics.scrape(), headers={"content-type": CONTENT_TYPE})


def _no_application(name: str, names: Any) -> str:
    return _no_such(f"application '{name}'", name, names)


def _no_such(what: str, name: str, names: Any) -> str:
    meant = nearest(name, names)
    hint = f"did you mean '{meant}'?" if meant else f"there are {', '.join(sorted(names)) or 'none'}"
    return f"there is no {what}; {hint}"


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def target_num_replicas(body: Any) -> int:
    """What an external scaler asks for, as the body of its request says.

    Raises:
        HTTPException: 400, it is something else.
    """
    field = "target_num_replicas"
    if not isinstance(body, dict) or field not in body:
        meant = nearest(field, body) if isinstance(body, dict) else None
        hint = f"; did you mean it by '{meant}'?" if meant else ""
        raise HTTPException(400, f'the body must be {{"{field}": NUMBER}}{hint}')
    target = body[field]
    if type(target) is not int or not 0 <= target <= MAX_TARGET:
        raise HTTPException(400, f"{field}: must be a whole number from 0 to {MAX_TARGET}, not {_shown(target)}")
    return target


async def _json_body(request: Request, empty: Any = None) -> Any:
    """`empty`: what no body at all stands for; None if there must be one."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"the body is longer than {MAX_BODY_BYTES} bytes")
    if not body and empty is not None:
        return empty
    try:
        return json.loads(bytes(body))
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)


async def _config_error(request: Request, error: Exception) -> Response:
    field, _, reason = str(error).partition(": ")
    problems = [{"field": field, "reason": reason}] if reason and " " not in field else []
    return JSONResponse({"error": str(error), "problems": problems}, status_code=400)


async def _internal_error(request: Request, error: Exception) -> Response:
    # The traceback is logged by the server; the client is told nothing of our insides.
    return JSONResponse({"error": "internal error; the controller's log has the details"}, status_code=500)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Signals are the process's, not this server's.
        yield


class _Protocol(HttpToolsProtocol):
    """Leaves the transport in the scope of a request."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[TRANSPORT_KEY] = self.transport  # type: ignore[literal-required]


class RestServer:
    """Serves the REST API on a socket that listens already."""

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn.Config(
            app, http=_Protocol, log_config=None, access_log=False, lifespan="off", server_header=False, ws="none"
        )
        self._server = _Server(config)

    async def serve(self, listener: socket.socket) -> None:
        await self._server.serve(sockets=[listener])

    def stop(self) -> None:
        self._server.should_exit = True
