"""`/sleep`, `/wake_up` and `/is_sleeping`: what vLLM's server has in its development mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import parse_qs

from headrace import DeploymentHandle
from headrace.exceptions import DeploymentUnavailableError, HeadraceError
from headrace.llm.api.asgi import ASGIApp, Receive, Scope, Send, send_json
from headrace.llm.api.errors import ApiError, nearest

_METHODS = {"/sleep": "POST", "/wake_up": "POST", "/is_sleeping": "GET"}


class Sleeper(Protocol):
    """A model that can be put to sleep: an `LLMServer`, or what calls one."""

    async def sleep(self, level: int = 1) -> None:
        """See `LLMServer.sleep`."""

    async def wakeup(self) -> None:
        """See `LLMServer.wakeup`."""

    async def is_sleeping(self) -> bool:
        """See `LLMServer.is_sleeping`."""


class HandleSleeper:
    """A model behind a handle: all its replicas at once.

    Args:
        handle: to an `LLMServer`.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle

    async def sleep(self, level: int = 1) -> None:
        """See `LLMServer.sleep`."""
        await self._handle.broadcast("sleep", level).results_async()

    async def wakeup(self) -> None:
        """See `LLMServer.wakeup`."""
        await self._handle.broadcast("wakeup").results_async()

    async def is_sleeping(self) -> bool:
        """Whether all of them sleep."""
        return all(await self._handle.broadcast("is_sleeping").results_async())


def sleep_mounts(models: Mapping[str, Sleeper]) -> dict[str, ASGIApp]:
    """Mounts of a front, by path.

    Args:
        models: those that may be put to sleep, by id.
    """
    routes = SleepRoutes(models)
    return dict.fromkeys(_METHODS, routes)


class SleepRoutes:
    """The three paths. Where there are several models, `?model=` says which."""

    def __init__(self, models: Mapping[str, Sleeper]) -> None:
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        method = _METHODS.get(path)
        if method is None:
            raise ApiError(404, f"no such path: {path}; {nearest(path, _METHODS)}", code="unknown_path")
        if scope["method"] != method:
            raise ApiError(
                405,
                f"{path} takes {method}, not {scope['method']}",
                code="method_not_allowed",
                headers={"allow": method},
            )
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        model = self._asked_for(query.get("model", [""])[0])
        try:
            if path == "/sleep":
                await model.sleep(_level(query.get("level", ["1"])[0]))
            elif path == "/wake_up":
                await model.wakeup()
            await send_json(send, {"is_sleeping": await model.is_sleeping()})
        except (ApiError, DeploymentUnavailableError):
            raise
        except HeadraceError as error:
            raise ApiError(400, str(error), code="cannot_sleep") from error

    def _asked_for(self, model_id: str) -> Sleeper:
        if not model_id and len(self._models) == 1:
            return next(iter(self._models.values()))
        model = self._models.get(model_id)
        if model is None:
            message = f"model: name one that may sleep, not {model_id!r}; {nearest(model_id, self._models)}"
            raise ApiError(404 if model_id else 400, message, code="model_not_found", param="model")
        return model


def _level(given: str) -> int:
    if given not in ("1", "2"):
        raise ApiError(400, f"level: must be 1 or 2, not {given!r}", code="invalid_value", param="level")
    return int(given)
