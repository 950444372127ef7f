"""What a typed handler answers about itself: `/openapi.json` and `/docs` below its route prefix."""

from __future__ import annotations

from typing import Any

from .docs_page import docs_page
from .json_encoding import encode_json
from .openapi import openapi_document
from .results import EncodedResponse
from .typed_arguments import TypedArguments

OPENAPI_PATH = "/openapi.json"
DOCS_PATH = "/docs"

# The page is complete in itself, so it may be denied everything else.
_DOCS_POLICY = (
    b"content-security-policy",
    b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'",
)


class SelfDescription:
    """Describes one handler. Documents are made when first asked for."""

    def __init__(self, arguments: TypedArguments, returns: Any, owner: str, doc: str | None) -> None:
        self._arguments = arguments
        self._returns = returns
        self._owner = owner
        self._doc = doc

    def response(self, path: str, root_path: str) -> EncodedResponse | None:
        """The answer to a GET of `path` (below the route prefix); None if it is none of ours."""
        if path == OPENAPI_PATH:
            return _complete(b"application/json", encode_json(self.openapi(root_path)))
        if path == DOCS_PATH:
            response = _complete(b"text/html; charset=utf-8", self.docs_html(root_path).encode())
            response.headers.append(_DOCS_POLICY)
            return response
        return None

    def openapi(self, root_path: str = "") -> dict[str, Any]:
        """See `HandlerPlan.openapi`."""
        return openapi_document(self._arguments, self._returns, self._owner, self._doc, root_path)

    def docs_html(self, root_path: str = "") -> str:
        """See `HandlerPlan.docs_html`."""
        return docs_page(self.openapi(root_path))


def _complete(content_type: bytes, body: bytes) -> EncodedResponse:
    return EncodedResponse(200, [(b"content-type", content_type), (b"content-length", b"%d" % len(body))], body)
