"""Single HTTP requests: is the server ready, and is its answer right?"""

from __future__ import annotations

import http.client
from types import TracebackType

from bench.peer import Request


class Probe:
    """One HTTP connection to the server on loopback, opened again when it breaks."""

    def __init__(self, port: int, timeout_s: float) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.close()

    def ask(self, request: Request) -> tuple[int, bytes]:
        """Status and body of the answer. Raises OSError or http.client.HTTPException where there is none."""
        try:
            self._connection.request(request.method, request.path, request.body, request.headers)
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()  # the next request opens it again
            raise
