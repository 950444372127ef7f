"""Answers of a replica to requests that it does not begin with."""

from __future__ import annotations

from headrace.llm.api.errors import OVERLOADED_HEADER, ApiError, openai_body, retry_after
from headrace.llm.engines.protocol import EngineResponse

_NEXT_TRY_S = 1.0
_NEXT_TRY_ASLEEP_S = 5.0


def overloaded_response(under_way: int) -> EngineResponse:
    """The answer where too many wait already.

    Args:
        under_way: requests that the replica has.
    """
    message = f"the model is overloaded: its replica has {under_way} requests already; try again later"
    error = ApiError(503, message, code="overloaded")
    return _response(error, {**retry_after(_NEXT_TRY_S), OVERLOADED_HEADER: "1"})


def asleep_response(model_id: str) -> EngineResponse:
    """The answer of a model that was put to sleep, which no request wakes up."""
    message = f"the model {model_id!r} was put to sleep and answers again when it is woken up"
    return _response(ApiError(503, message, code="model_asleep"), retry_after(_NEXT_TRY_ASLEEP_S))


def _response(error: ApiError, headers: dict[str, str]) -> EngineResponse:
    return EngineResponse(error.status, openai_body(error), headers=headers)
