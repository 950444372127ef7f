"""HTTP at a replica: a request becomes a call of user code, and what that returns becomes a response."""

from __future__ import annotations

from .encode import encode_result
from .errors import error_response, response_for_exception
from .plan import HandlerPlan, plan_handler
from .request import request_from
from .results import ASGIResult, EncodedResponse, StreamingResult

__all__ = [
    "ASGIResult",
    "EncodedResponse",
    "HandlerPlan",
    "StreamingResult",
    "encode_result",
    "error_response",
    "plan_handler",
    "request_from",
    "response_for_exception",
]
