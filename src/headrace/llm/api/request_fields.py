"""What the front reads of a request's body: who is asked, and what routing and limits go by. All else stays bytes."""

from __future__ import annotations

import msgspec

from headrace.llm.api.errors import ApiError

_NOTHING = msgspec.Raw(b"")


class RequestFields(msgspec.Struct, gc=False):
    """Fields of the body, as raw JSON where a wrong type is the engine's business. An empty `Raw`: not given."""

    model: str | None = None
    messages: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING
    user: msgspec.Raw = _NOTHING
    prompt_cache_key: msgspec.Raw = _NOTHING
    stream: msgspec.Raw = _NOTHING
    stream_options: msgspec.Raw = _NOTHING
    n: msgspec.Raw = _NOTHING
    max_tokens: msgspec.Raw = _NOTHING
    max_completion_tokens: msgspec.Raw = _NOTHING
    max_output_tokens: msgspec.Raw = _NOTHING

    @property
    def prompt_text(self) -> memoryview:
        """The JSON of the prompt, whatever the API calls it. A view: prompts with pictures are long."""
        return memoryview(self.messages) or memoryview(self.prompt) or memoryview(self.input)

    @property
    def session(self) -> str:
        """What the request says of the session that it belongs to, as text."""
        return (bytes(self.prompt_cache_key) or bytes(self.user)).decode(errors="replace").strip('"')


_decode = msgspec.json.Decoder(RequestFields).decode


def read_fields(body: bytes) -> RequestFields:
    """
    Raises:
        ApiError: 400, with the position of what is no JSON, or the field that is of the wrong type.
    """
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        if str(error).endswith("`$.model`"):
            message = f"'model' must be a string, the id of a model: {error}"
            raise ApiError(400, message, code="invalid_type", param="model") from None
        raise ApiError(400, f"the body must be a JSON object: {error}", code="invalid_body") from None
    except msgspec.DecodeError as error:
        what = "the body is empty" if not body else f"the body is no valid JSON: {error}"
        raise ApiError(400, what, code="invalid_json") from None
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is no valid UTF-8: byte {error.start}", code="invalid_json") from None
