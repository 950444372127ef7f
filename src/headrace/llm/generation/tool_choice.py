"""Which tools an answer may or must call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headrace.llm.generation.output_constraint import from_schema, require_support
from headrace.llm.generation.request_error import RequestError
from headrace.llm.generation.request_fields import ChatCompletionRequest
from headrace.llm.generation.token_engine import OutputConstraint, TokenModel
from headrace.llm.generation.tool_calls import HermesParser, NamedToolParser, RequiredToolsParser, ToolParser


@dataclass(frozen=True, slots=True)
class ToolUse:
    """
    Attributes:
        tools: for the chat template; None: none.
        mode: "none", "auto", "required" or "named".
        name: the tool that must be called, where `mode` is "named".
        constraint: what the answer must then match.
    """

    tools: list[dict[str, Any]] | None
    mode: str
    name: str = ""
    constraint: OutputConstraint | None = None

    def parser(self) -> ToolParser | None:
        """Finds the calls in one choice's text; None: it has none."""
        match self.mode:
            case "auto":
                return HermesParser()
            case "named":
                return NamedToolParser(self.name)
            case "required":
                return RequiredToolsParser()
        return None


def tool_use_of(request: ChatCompletionRequest, model: TokenModel) -> ToolUse:
    """
    Raises:
        RequestError: `tools` or `tool_choice` is wrong, or the engine cannot make sure of such a choice.
    """
    choice = request.tool_choice
    tools = request.tools
    if tools is None:
        if choice not in (None, "none", "auto"):
            raise RequestError("tool_choice: needs `tools` to choose from", "tool_choice")
        return ToolUse(None, "none")
    if not tools:
        raise RequestError("tools: give at least one tool, or leave the field out", "tools")
    functions = {}
    for index, tool in enumerate(tools):
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RequestError(
                f'tools[{index}].function.name: a tool is {{"type": "function", "function": {{"name": ...}}}}',
                f"tools[{index}].function.name",
            )
        functions[function["name"]] = function
    if choice is None or choice == "auto":
        return ToolUse(tools, "auto")
    if choice == "none":
        # As vLLM does: the model is not shown what it may not call.
        return ToolUse(None, "none")
    if choice == "required":
        constraint = from_schema(_any_of(functions, request.parallel_tool_calls is not False))
        require_support(constraint, model, "tool_choice")
        return ToolUse(tools, "required", "", constraint)
    named = choice.get("function") if isinstance(choice, dict) else None
    name = named.get("name") if isinstance(named, dict) else None
    if not isinstance(name, str):
        raise RequestError(
            "tool_choice: must be 'none', 'auto', 'required' or "
            f'{{"type": "function", "function": {{"name": ...}}}}, not {choice!r}',
            "tool_choice",
        )
    if name not in functions:
        raise RequestError(f"tool_choice: '{name}' is none of the tools: {', '.join(functions)}", "tool_choice")
    constraint = from_schema(_parameters(functions[name]))
    require_support(constraint, model, "tool_choice")
    return ToolUse(tools, "named", name, constraint)


def _parameters(function: dict[str, Any]) -> dict[str, Any]:
    parameters = function.get("parameters")
    return parameters if isinstance(parameters, dict) and parameters else {"type": "object"}


def _any_of(functions: dict[str, dict[str, Any]], several: bool) -> dict[str, Any]:
    """A list of calls, at least one."""
    calls = []
    definitions: dict[str, Any] = {}
    for name, function in functions.items():
        parameters = dict(_parameters(function))
        # References point to the root of a schema, and these parameters are no root any more.
        for key in ("$defs", "definitions"):
            definitions.setdefault(key, {}).update(parameters.pop(key, {}))
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": name}, "parameters": parameters},
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
        )
    schema: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": calls}}
    if not several:
        schema["maxItems"] = 1
    schema.update({key: value for key, value in definitions.items() if value})
    return schema
