"""What a call through a handle raises where an HTTP client gets a status of 4xx or 5xx."""

from __future__ import annotations

from typing import Any

from headrace.exceptions import HeadraceError


class LLMRequestError(HeadraceError):
    """An engine refused a request, or failed at it.

    Attributes:
        status: what an HTTP client is told: 400, 404, 429, 500, …
        error: the error in OpenAI's shape: `message`, `type`, `param`, `code`.
    """

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(status, error)
        self.status = status
        self.error = error

    def __str__(self) -> str:
        return f"{self.status}: {self.error.get('message', self.error)}"
