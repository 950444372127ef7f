"""Messages of a chat, checked and in the form that chat templates expect."""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.llm.generation.request_error import RequestError

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def template_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Raises:
        RequestError: a message is wrong, or has content that is no text; names it.
    """
    if not messages:
        raise RequestError("messages: must have at least one message", "messages")
    return [_checked(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _checked(message: dict[str, Any], where: str) -> dict[str, Any]:
    role = message.get("role")
    if not isinstance(role, str):
        raise RequestError(f"{where}.role: must be one of {', '.join(_ROLES)}", f"{where}.role")
    checked = {key: value for key, value in message.items() if value is not None}
    # Templates do not know OpenAI's newer name.
    checked["role"] = "system" if role == "developer" else role
    checked["content"] = _text(message.get("content"), f"{where}.content")
    calls = checked.get("tool_calls")
    if calls:
        checked["tool_calls"] = [_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls)]
    elif message.get("content") is None and role in ("system", "developer", "user", "tool"):
        raise RequestError(f"{where}.content: this field is required", f"{where}.content")
    return checked


def _text(content: Any, where: str) -> str:
    """Templates of text models expect one string; parts are joined as vLLM joins them."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"{where}: must be a string, or a list of parts", where)
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        text = part if isinstance(part, str) else part.get("text", part.get("refusal"))
        if kind not in ("text", "input_text", "output_text", "refusal") or not isinstance(text, str):
            raise RequestError(f"{where}[{index}]: this model takes text alone, not '{kind}'", f"{where}[{index}]")
        texts.append(text)
    return "\n".join(texts)


def _call(call: Any, where: str) -> dict[str, Any]:
    """A call of an earlier turn; templates want its arguments as values, clients send them as JSON text."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RequestError(f"{where}.function.name: this field is required", f"{where}.function.name")
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments)
        except msgspec.DecodeError as error:
            raise RequestError(
                f"{where}.function.arguments: is not valid JSON: {error}", f"{where}.function.arguments"
            ) from None
    return {**call, "function": {**function, "arguments": arguments}}
