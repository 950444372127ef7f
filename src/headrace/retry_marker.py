"""Marking methods whose calls may be sent again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def retryable(method: F) -> F:
    """Mark a method that may safely run twice for one request.

    A call of it, or an HTTP request that it answers, is sent to another replica when its replica dies before it
    answered. Without the mark only HTTP methods that are idempotent by definition (GET, HEAD, OPTIONS, TRACE) are.
    """
    method.__headrace_retryable__ = True  # type: ignore[attr-defined]
    return method
