"""Errors as OpenAI's clients expect them."""

from __future__ import annotations

import msgspec

from headrace.llm.engines.protocol import EngineResponse


class RequestError(Exception):
    """A request that cannot be answered, and why.

    Attributes:
        message: for the client; names what was wrong and what would be right.
        param: the parameter that was wrong, as a path ("messages[0].role"); None where there is none.
        status: HTTP status.
        type: OpenAI's kind of error.
        code: OpenAI's code for programs, such as "context_length_exceeded".
    """

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        status: int = 400,
        type: str = "invalid_request_error",
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.status = status
        self.type = type
        self.code = code

    def as_json(self) -> bytes:
        """The body of the answer."""
        return msgspec.json.encode(
            {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}
        )

    def as_response(self) -> EngineResponse:
        """The whole answer."""
        return EngineResponse(self.status, self.as_json())


def engine_failure(error: Exception) -> RequestError:
    """What a client is told of an engine that gave up."""
    return RequestError(str(error) or type(error).__name__, status=500, type="server_error", code="engine_error")


def context_too_long(max_model_len: int, prompt_tokens: int, answer_tokens: int, param: str) -> RequestError:
    """Prompt and answer do not fit into the model's context together.

    Args:
        answer_tokens: as the client asked for; 0: as many as there is room for.
        param: where the prompt was: "messages", "prompt" or "input".
    """
    asked = f", and the answer was to have {answer_tokens}" if answer_tokens else ""
    total = f" ({prompt_tokens + answer_tokens} together)" if answer_tokens else ""
    return RequestError(
        f"This model's maximum context length is {max_model_len} tokens. The prompt has {prompt_tokens} tokens{asked}"
        f"{total}. Shorten the {param}" + (" or lower max_tokens." if answer_tokens else "."),
        param,
        code="context_length_exceeded",
    )
