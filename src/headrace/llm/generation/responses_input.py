"""From the input of `/v1/responses` to the messages and tools of a chat."""

from __future__ import annotations

from typing import Any

from headrace.llm.generation.request_error import RequestError


def chat_messages(instructions: str | None, given: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Raises:
        RequestError: an item is of a kind that a chat cannot say; names it.
    """
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    for index, item in enumerate(given):
        kind = item.get("type", "message")
        if kind == "message":
            messages.append({"role": item.get("role"), "content": item.get("content")})
        elif kind == "function_call":
            _add_call(messages, item)
        elif kind == "function_call_output":
            output = item.get("output")
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": output})
        elif kind != "reasoning":
            raise RequestError(f"input[{index}].type: '{kind}' is not supported by this engine", f"input[{index}].type")
    return messages


def _add_call(messages: list[dict[str, Any]], item: dict[str, Any]) -> None:
    """Calls of one turn belong to one message."""
    function = {"name": item.get("name"), "arguments": item.get("arguments")}
    call = {"id": item.get("call_id"), "type": "function", "function": function}
    last = messages[-1] if messages else {}
    if last.get("role") == "assistant":
        last.setdefault("tool_calls", []).append(call)
    else:
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def chat_tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Raises:
        RequestError: a tool is none that a client runs itself.
    """
    for index, tool in enumerate(tools):
        if tool.get("type") != "function":
            raise RequestError(
                f"tools[{index}].type: this engine has function tools alone, not '{tool.get('type')}'",
                f"tools[{index}].type",
            )
    return [
        {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}} for tool in tools
    ]


def chat_tool_choice(choice: str | dict[str, Any]) -> str | dict[str, Any]:
    """The same choice, as a chat has it."""
    if isinstance(choice, dict) and choice.get("type") == "function" and "function" not in choice:
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice
