"""What can go wrong on the wire."""

from __future__ import annotations

from headrace.exceptions import HeadraceError


class WireError(HeadraceError):
    """Base of the wire's errors."""


class ConnectionLost(WireError):
    """The connection ended before the call was answered."""


class HandshakeFailed(WireError):
    """The peer did not prove that it holds the cluster's secret, or does not speak this protocol."""


class ProtocolViolation(WireError):
    """The peer sent bytes that are no frame."""


class RpcError(WireError):
    """A control-plane handler raised.

    Attributes:
        kind: class name of the exception there.
        message: its text.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return self.message
