"""Who may use the REST API. Without a token: whoever is on this machine, and no web page of anybody else's."""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from headrace.config.rest_token import TOKEN_VARIABLE, rest_token

TOKEN_FILE = "rest_token"

HEALTH_PATHS = frozenset(
    ("/-/healthz", "/api/headrace/ready", "/api/healthz", "/api/gcs_healthz", "/api/local_raylet_healthz")
)
"""Anybody may ask for these: Kubernetes probes a pod by its address, and has no token. They tell nothing else."""

INDEX_PATH = "/"
ASSETS_PATH = "/assets/"
"""The dashboard's own files, which hold no data: who has a token types it into the page."""

PLAYGROUND_PATH = "/api/headrace/playground/"
"""Calls of applications, which whoever is on this machine can make at the proxy's port as well."""

_READING = frozenset(("GET", "HEAD", "OPTIONS"))


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def required_token(host: str, session_dir: Path, environment: Mapping[str, str] = os.environ) -> str | None:
    """The token that requests must carry: the environment's, or a new one where more than this machine can connect.

    A new token is written to `<session>/rest_token`, which only this user can read. None: no token is needed.
    """
    token = rest_token(environment)
    if token or is_loopback(host):
        return token
    file = session_dir / TOKEN_FILE
    if not file.exists():
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_urlsafe(32))
    return file.read_text()


class Guard:
    """Refuses what does not carry the token, or comes from a web page.

    A page cannot send a token that it does not know. Without a token, a page of another site gives itself away by its
    `Origin`, or, if it has made its own name point here (DNS rebinding), by that name in `Host`. The dashboard then may
    only read, and call applications. Programs send no `Origin`, and are not restricted.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._refusal(Headers(scope=scope), scope["method"], scope["path"])
            if refusal is not None:
                status, reason = refusal
                extra = {"WWW-Authenticate": "Bearer"} if status == 401 else None
                await JSONResponse({"error": reason}, status_code=status, headers=extra)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Headers, method: str, path: str) -> tuple[int, str] | None:
        host = headers.get("host", "")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, f"requests from pages of another site ({origin}) are refused"
        if path in HEALTH_PATHS:
            return None
        if self._token is not None:
            if method in _READING and (path == INDEX_PATH or path.startswith(ASSETS_PATH)):
                return None
            # What stands between, such as Kubernetes' API server, may take the usual header for its own.
            authorization = headers.get("authorization") or headers.get("x-ray-authorization", "")
            scheme, _, given = authorization.partition(" ")
            if scheme.lower() == "bearer" and secrets.compare_digest(given.strip().encode(), self._token.encode()):
                return None
            return 401, (
                f"a token is needed: send the header 'Authorization: Bearer <token>' with the value of "
                f"${TOKEN_VARIABLE}, or of the file {TOKEN_FILE} in the session folder"
            )
        name = urlsplit(f"//{host}").hostname or ""
        if not is_loopback(name):
            return 403, f"the Host '{host}' is not this machine; use 127.0.0.1 or localhost"
        if origin is not None and method not in _READING and not path.startswith(PLAYGROUND_PATH):
            return 403, (
                f"without a token, pages may only read; start the instance with ${TOKEN_VARIABLE} set, and the "
                "dashboard asks for it"
            )
        return None
