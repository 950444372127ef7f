"""Every exception that Headrace raises on purpose. This module imports nothing of ours, so any part may use it."""

from __future__ import annotations

from typing import Any


class HeadraceError(Exception):
    """Base of all errors that Headrace raises on purpose."""


RayServeException = HeadraceError
"""The name under which code written for Ray Serve catches the base class."""


class ConfigError(HeadraceError, ValueError):
    """An option, argument or file of the user's is wrong.

    The message names the field, what was given, what would be right, and where it stands (file and line) if known.
    """


class ConfigTypeError(ConfigError, TypeError):
    """A `ConfigError` about a value of the wrong type, where Ray Serve raises `TypeError`."""


class ApplicationBuildError(HeadraceError):
    """An application's import path cannot be imported, or does not lead to an application."""


class DeploymentFailedError(HeadraceError, RuntimeError):
    """`run` gave up: a deployment's constructor raised, or it cannot be placed. The message carries the reason."""


class StartupError(HeadraceError, RuntimeError):
    """Headrace itself cannot start: a port is in use, a folder is not writable, …"""


class NotRunningError(HeadraceError):
    """No running Headrace instance was found where one was needed."""


class BackPressureError(HeadraceError):
    """A request was refused because `max_queued_requests` were already waiting.

    Attributes:
        num_queued_requests: how many were waiting at this caller.
        max_queued_requests: the limit.
        status_code: HTTP status of the refusal (503, or 429 where so configured).
        retry_after_s: value of the `Retry-After` header, seconds; None for no header.
    """

    def __init__(
        self,
        num_queued_requests: int,
        max_queued_requests: int,
        status_code: int = 503,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(num_queued_requests, max_queued_requests, status_code, retry_after_s)
        self.num_queued_requests = num_queued_requests
        self.max_queued_requests = max_queued_requests
        self.status_code = status_code
        self.retry_after_s = retry_after_s

    @property
    def message(self) -> str:
        return (
            f"request refused: {self.num_queued_requests} requests are already queued "
            f"(max_queued_requests={self.max_queued_requests})"
        )

    def __str__(self) -> str:
        return self.message


class RequestCancelledError(HeadraceError):
    """The awaited request was cancelled, by `response.cancel()` or because its caller went away."""

    def __init__(self, request_id: str | None = None) -> None:
        super().__init__(request_id)
        self.request_id = request_id

    def __str__(self) -> str:
        return f"request {self.request_id} was cancelled" if self.request_id else "request was cancelled"


class RequestTimeoutError(HeadraceError, TimeoutError):
    """The request's deadline (`request_timeout_s`) passed before it was answered."""


class DeploymentUnavailableError(HeadraceError):
    """The deployment does not exist, is being deleted, or failed to deploy."""


class ReplicaUnavailableError(HeadraceError):
    """The replica died or hung up while it worked on the request, and the request may not be sent again."""


class BatchError(HeadraceError, RuntimeError):
    """A batched function broke its contract: one result per request, no request larger than a whole batch."""


class RemoteError(HeadraceError):
    """Stands for a user's exception that could not be unpickled here. The message carries its type and text."""


class SerializationError(HeadraceError, TypeError):
    """An argument or a return value cannot be sent to another process. The message says which part."""


class InvalidRequestError(HeadraceError):
    """An HTTP request that user code never sees: malformed JSON, wrong types, a body over the limit.

    Attributes:
        status_code: 400, 413 or 422.
        detail: JSON-able body of the answer, under the key `detail`.
    """

    def __init__(self, status_code: int, detail: Any) -> None:
        super().__init__(status_code, detail)
        self.status_code = status_code
        self.detail = detail
