"""Serves the dashboard's files at the REST port: to anybody who may connect, since they hold no data."""

from __future__ import annotations

import gzip
import hashlib
from functools import lru_cache
from types import MappingProxyType

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headrace.controller.rest_guard import ASSETS_PATH, INDEX_PATH
from headrace.dashboard import ASSETS, STATIC

SECURITY_HEADERS = MappingProxyType(
    {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
)

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Asset:
    """One file, as it is sent. `etag` says what is in it."""

    def __init__(self, name: str, content: bytes) -> None:
        self.media_type = f"{_TYPES[name[name.rindex('.') :]]}; charset=utf-8"
        self.plain = content
        self.compressed = gzip.compress(content, mtime=0)
        self.etag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'


class Assets:
    """The dashboard's files.

    Attributes:
        digest: of all of them. It is part of their addresses, so that browsers may keep them for ever.
        index: the page itself, which names them.
        by_name: the others.
    """

    def __init__(self) -> None:
        files = {path.name: path.read_bytes() for path in sorted(STATIC.iterdir()) if path.suffix in _TYPES}
        whole = hashlib.blake2b(digest_size=12)
        for name, content in files.items():
            whole.update(f"{name}:{len(content)}:".encode() + content)
        self.digest = whole.hexdigest()
        page = files.pop("index.html").replace(ASSETS.encode(), f"{ASSETS_PATH}{self.digest}".encode())
        self.index = Asset("index.html", page)
        self.by_name = {name: Asset(name, content) for name, content in files.items()}


@lru_cache(maxsize=1)
def assets() -> Assets:
    """Read when a page is first asked for: most controllers never are."""
    return Assets()


class Pages:
    """The endpoints of the page.

    Args:
        actions: whether the page may change anything, which takes a token.
    """

    def __init__(self, *, actions: bool) -> None:
        self._actions = actions
        self.routes = [
            Route(INDEX_PATH, self.index, methods=["GET"]),
            Route(f"{ASSETS_PATH}{{digest}}/{{name}}", self.asset, methods=["GET"]),
            Route("/api/headrace/dashboard", self.abilities, methods=["GET"]),
        ]

    async def index(self, request: Request) -> Response:
        """The page. It is asked for again each time, which costs no more than "not modified"."""
        return _answer(request, assets().index, "no-cache")

    async def asset(self, request: Request) -> Response:
        """One of its files, under the digest of this release."""
        found = assets().by_name.get(request.path_params["name"])
        if found is None or request.path_params["digest"] != assets().digest:
            raise HTTPException(404, "there is no such file; reload the page")
        return _answer(request, found, "public, max-age=31536000, immutable")

    async def abilities(self, request: Request) -> Response:
        """What the page may offer."""
        return JSONResponse({"actions": self._actions})


def _answer(request: Request, asset: Asset, caching: str) -> Response:
    headers = {**SECURITY_HEADERS, "Cache-Control": caching, "ETag": asset.etag, "Vary": "Accept-Encoding"}
    if asset.etag in (tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=headers)
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(asset.plain, media_type=asset.media_type, headers=headers)
    headers["Content-Encoding"] = "gzip"
    return Response(asset.compressed, media_type=asset.media_type, headers=headers)
