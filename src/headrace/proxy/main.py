"""The process of one proxy."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

import uvicorn
import uvloop
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from headrace.exceptions import ConfigError
from headrace.observe import tracing
from headrace.observe.log_files import LoggedProcess
from headrace.observe.logs import configure_logging, end_logging
from headrace.proxy.app import ProxyApp
from headrace.proxy.metrics import ProxyMetrics
from headrace.proxy.observed import ProxyObserved
from headrace.proxy.protocol import ProxyProtocol, close_slow_clients
from headrace.router.hub import RouterHub, set_hub
from headrace.wire.connection import SharedMemory
from headrace.wire.shm import shared_folder

if TYPE_CHECKING:
    from headrace.engine.process import ProcessContext

logger = logging.getLogger("headrace.proxy")

_BACKLOG = 2048
_DRAIN_S = 30

_ROUTES_WITHIN_S = 10.0
"""So long a proxy waits for its routes before it accepts: what comes meanwhile waits in the backlog, or goes to
another proxy. Then it accepts all the same and says 503, which tells more than silence."""


def main(process: ProcessContext) -> None:
    """Serve HTTP until told to end, then finish what is in flight. `process.args["instance"]`: an InstanceConfig."""
    try:
        uvloop.run(_serve(process))
    except ConfigError as error:
        sys.exit(f"headrace: {process.name} cannot start: {error}")
    finally:
        end_logging()


async def _serve(process: ProcessContext) -> None:
    instance = process.args.get("instance") or {}
    http: dict[str, Any] = instance.get("http") or {}
    log = configure_logging(
        LoggedProcess("proxy", process.name), instance.get("logging"), process.session_dir / "logs", capture=True
    )
    tracing.begin_tracing(instance.get("tracing"), f"{process.name}@{socket.gethostname()}")
    folder = shared_folder(process.session_dir.name)
    app = ProxyApp(
        root_path=http.get("root_path") or "",
        request_timeout_s=http.get("request_timeout_s"),
        max_body_bytes=http.get("max_body_bytes"),
    )
    app.hub = RouterHub(
        str(process.session_dir / "controller.sock"),
        process.secret,
        SharedMemory(folder) if folder is not None else None,
        on_routes=app.set_routes,
    )
    app.access = log.access()
    set_hub(app.hub)
    prefix = instance.get("metrics_prefix", "ray_")
    observed = ProxyObserved(app.counts, app.ended, app.hub).handlers()
    metrics = ProxyMetrics(process.name, process.session_dir, process.secret, prefix, app.counts, app.hub, **observed)
    app.metrics = metrics.scrape
    await metrics.serve()
    server = _Server(_config(_wrapped(app, http.get("middlewares") or []), http))
    slow = asyncio.create_task(close_slow_clients(server.server_state.connections))
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ROUTES_WITHIN_S):
                await app.routes_known.wait()
        await server.serve(sockets=[process.listeners["http"]])
    finally:
        slow.cancel()
        await app.hub.close()


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # Here, since the signal that it was told to end by ends the process before anything else runs.
        await asyncio.to_thread(tracing.end_tracing)
        end_logging()


def _config(app: Any, http: dict[str, Any]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=ProxyProtocol,
        ws=WebSocketsSansIOProtocol,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        # Only where an administrator says whom to trust: a client may send these headers too.
        proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,
        root_path=http.get("root_path") or "",
        backlog=_BACKLOG,
        timeout_keep_alive=max(1, int(http.get("keep_alive_timeout_s") or 90)),
        timeout_graceful_shutdown=_DRAIN_S,
        ssl_keyfile=http.get("ssl_keyfile"),
        ssl_certfile=http.get("ssl_certfile"),
        ssl_keyfile_password=http.get("ssl_keyfile_password"),
        ssl_ca_certs=http.get("ssl_ca_certs"),
    )


def _wrapped(app: Any, middlewares: list[dict[str, Any]]) -> Any:
    """The application inside its middlewares, the first outermost."""
    for middleware in reversed(middlewares):
        path = middleware["cls"]
        module, _, name = path.replace(":", ".").rpartition(".")
        try:
            app = getattr(importlib.import_module(module), name)(
                app, *middleware.get("args", ()), **middleware.get("kwargs", {})
            )
        except Exception as error:
            raise ConfigError(f"http_options.middlewares: cannot make {path!r}: {error}") from error
    return app
