"""What the instance does and has done, for dashboards: series, who calls whom, single requests, and a live stream."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from headrace.config.problems import nearest
from headrace.controller.controller import Controller
from headrace.controller.observed.live import Live
from headrace.controller.observed.requests import KINDS, requests
from headrace.controller.observed.sampler import COARSE_KEPT_S, FINE_KEPT_S
from headrace.exceptions import ConfigError

MAX_MINUTES = int(COARSE_KEPT_S / 60)
MAX_REQUESTS = 200


class ObservedApi:
    """The endpoints. Whoever asks for any of them looks, in the sense of `Sampler.look`."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._sampler = controller.sampler
        self._live = Live(self._sampler, self._status, controller.changed)
        self.routes: list[BaseRoute] = [
            Route("/api/headrace/series", self.series, methods=["GET"]),
            Route("/api/headrace/calls", self.calls, methods=["GET"]),
            Route("/api/headrace/requests", self.requests, methods=["GET"]),
            Route("/api/headrace/live", _Stream(self._live), methods=["GET"]),
        ]

    async def series(self, request: Request) -> Response:
        """`?minutes=`: of the last so many, up to a day; by 2 s up to 15 minutes, and by 30 s for longer."""
        given = _given(request.query_params, "minutes")
        minutes = _whole("minutes", given.get("minutes", "15"), MAX_MINUTES)
        self._sampler.look()
        await self._sampler.begun()
        series = self._sampler.fine if minutes * 60 <= FINE_KEPT_S else self._sampler.coarse
        # On a thread, since it may be much: the controller has other things to do.
        told = await asyncio.to_thread(series.points(minutes * 60).as_json)
        return Response(told, media_type="application/json")

    async def calls(self, request: Request) -> Response:
        """Who calls whom, and how often."""
        _given(request.query_params)
        self._sampler.look()
        edges = await self._sampler.calls()
        return JSONResponse(
            {
                "edges": [
                    {"from": caller, "to": to, "requests_per_s": None if per_s is None else round(per_s, 3)}
                    for (caller, to), per_s in sorted(edges.items())
                ]
            }
        )

    async def requests(self, request: Request) -> Response:
        """`?kind=slow`, `failed` or `recent`; `?app=`: of this application alone; `?limit=`."""
        given = _given(request.query_params, "kind", "app", "limit")
        kind = given.get("kind", "recent")
        if kind not in KINDS:
            meant = nearest(kind, KINDS)
            hint = f"; did you mean '{meant}'?" if meant else ""
            raise ConfigError(f"kind: must be one of {', '.join(KINDS)}, not {kind!r}{hint}")
        app = given.get("app", "")
        if app and app not in (known := self._controller.applications.by_name):
            raise ConfigError(f"app: there is no application {app!r}; there are {', '.join(sorted(known)) or 'none'}")
        limit = _whole("limit", given.get("limit", "50"), MAX_REQUESTS)
        self._sampler.look()
        return JSONResponse(await requests(self._sampler, kind, app, limit))

    async def _status(self) -> bytes:
        return msgspec.json.encode(await self._controller.status())

    def close(self) -> None:
        """End the streams."""
        self._live.close()


class _Stream:
    """Checks the parameters; the rest is `Live`'s. A class, since Starlette wraps functions as endpoints."""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _given(Request(scope).query_params)
        await self._live(scope, receive, send)


def _given(parameters: Mapping[str, str], *names: str) -> dict[str, str]:
    for name in parameters:
        if name not in names:
            meant = nearest(name, names)
            hint = f"did you mean '{meant}'?" if meant else f"it takes {', '.join(names) or 'none'}"
            raise ConfigError(f"{name}: this endpoint has no such parameter; {hint}")
    return dict(parameters)


def _whole(field: str, given: Any, most: int) -> int:
    number = int(given) if given.isascii() and given.isdigit() and len(given) < 10 else 0
    if not 1 <= number <= most:
        raise ConfigError(f"{field}: must be a whole number from 1 to {most}, not {given[:40]!r}")
    return number
