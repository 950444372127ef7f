"""From Anthropic's messages and tools to those of a chat."""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.llm.generation.request_error import RequestError


def chat_messages(system: str | list[dict[str, Any]] | None, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Raises:
        RequestError: a message has blocks of a kind that a chat of texts cannot say; names it.
    """
    messages: list[dict[str, Any]] = []
    if system:
        text = system if isinstance(system, str) else "\n".join(str(block.get("text", "")) for block in system)
        messages.append({"role": "system", "content": text})
    for index, message in enumerate(given):
        content = message.get("content")
        if not isinstance(content, list):
            messages.append({"role": message.get("role"), "content": content})
        else:
            messages += _turn(message.get("role"), content, f"messages[{index}].content")
    return messages


def _turn(role: Any, blocks: list[Any], where: str) -> list[dict[str, Any]]:
    """A message of blocks. Results of tools are messages of their own in a chat, before what the user says."""
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for index, block in enumerate(blocks):
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            texts.append(str(block.get("text", "")))
        elif kind == "tool_use":
            arguments = msgspec.json.encode(block.get("input") or {}).decode()
            function = {"name": block.get("name"), "arguments": arguments}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "tool_result":
            content = block.get("content") or ""
            results.append({"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": content})
        elif kind not in ("thinking", "redacted_thinking"):
            raise RequestError(f"{where}[{index}].type: this model takes text alone, not '{kind}'", where)
    if role == "user" and results and not texts:
        return results
    turn: dict[str, Any] = {"role": role, "content": "\n".join(texts) if texts or not calls else None}
    if calls:
        turn["tool_calls"] = calls
    return [*results, turn]


def chat_tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Raises:
        RequestError: a tool is none that a client runs itself.
    """
    for index, tool in enumerate(tools):
        if tool.get("type", "custom") != "custom":
            raise RequestError(f"tools[{index}].type: this model has custom tools alone", f"tools[{index}].type")
    return [
        {
            "type": "function",
            "function": {
                "name": tool.get("name"),
                "description": tool.get("description", ""),
                "parameters": tool.get("input_schema") or {"type": "object"},
            },
        }
        for tool in tools
    ]


def chat_tool_choice(choice: dict[str, Any]) -> str | dict[str, Any]:
    """The same choice, as a chat has it.

    Raises:
        RequestError: there is no such choice.
    """
    match choice.get("type"):
        case "auto":
            return "auto"
        case "any":
            return "required"
        case "none":
            return "none"
        case "tool":
            return {"type": "function", "function": {"name": choice.get("name")}}
    raise RequestError("tool_choice.type: must be 'auto', 'any', 'tool' or 'none'", "tool_choice.type")
