"""Sends a batch's requests to a server that speaks the OpenAI API."""

from __future__ import annotations

import asyncio
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Self

from headrace.exceptions import ConfigError
from headrace.llm.batch.lines import BatchRequest, BatchResponse

if TYPE_CHECKING:
    import httpx

PRIORITY_HEADER = "x-headrace-priority"
BATCH_PRIORITY = "1"
"""Live requests have priority 0, and the lower goes first."""


class HttpSender:
    """A context manager whose `send` is what `run_batch` needs.

    Args:
        url: of the server, with any route prefix: "http://localhost:8000".
        api_key: sent as a bearer token; None for none.
        connections: the most that are open at a time.
        timeout_s: how long one answer may take.

    Raises:
        ConfigError: httpx is not installed, or `url` is none.
    """

    def __init__(self, url: str, api_key: str | None, connections: int, timeout_s: float) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._api_key = api_key
        self._connections = connections
        self._timeout_s = timeout_s
        self._client: httpx.AsyncClient

    async def __aenter__(self) -> Self:
        httpx = import_httpx()
        if not self._url.startswith(("http://", "https://")):
            raise ConfigError(f"--url: '{self._url}' is no address of a server; it looks like http://localhost:8000")
        headers = {"content-type": "application/json", PRIORITY_HEADER: BATCH_PRIORITY}
        if self._api_key is not None:
            headers["authorization"] = f"Bearer {self._api_key}"
        self._client = httpx.AsyncClient(
            base_url=self._url,
            headers=headers,
            timeout=httpx.Timeout(self._timeout_s, connect=10.0),
            limits=httpx.Limits(max_connections=self._connections, max_keepalive_connections=self._connections),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def send(self, request: BatchRequest) -> tuple[BatchResponse, float | None]:
        """One try; see `run.Send`."""
        httpx = import_httpx()
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._client.post(request.url, content=request.body)
        except (httpx.HTTPError, TimeoutError) as error:
            why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            return BatchResponse(0, error=f"no answer from {self._url}{request.url}: {why}"), None
        response = BatchResponse(answer.status_code, answer.content, answer.headers.get("x-request-id", ""))
        return response, _seconds(answer.headers.get("retry-after"))


def import_httpx() -> ModuleType:
    """The HTTP client.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import httpx
    except ImportError:
        raise ConfigError("httpx is not installed; install it with: pip install 'headrace[llm]'") from None
    return httpx


def _seconds(retry_after: str | None) -> float | None:
    """Of a `Retry-After` header; None for a date, which no server of ours sends."""
    try:
        return max(0.0, float(retry_after)) if retry_after else None
    except ValueError:
        return None
