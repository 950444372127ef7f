from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace.llm.generation.tool_calls import HermesParser, ToolCallDelta, ToolParser

_arguments = st.dictionaries(
    st.text(max_size=5),
    st.one_of(st.text('a"\\{}[]<é', max_size=8), st.integers(), st.lists(st.booleans())),
    max_size=3,
)
_content = st.text("ab <", max_size=8).filter(lambda text: "<tool_call" not in text)


def _parse(parser: ToolParser, parts: list[str]) -> tuple[str, list[tuple[str | None, Any]]]:
    """The content, and name and arguments of each call."""
    deltas = [delta for part in parts for delta in parser.push(part)] + parser.finish()
    content = "".join(delta for delta in deltas if isinstance(delta, str))
    names: dict[int, str | None] = {}
    arguments: dict[int, str] = {}
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            if delta.name is not None:
                assert delta.id is not None and delta.id.startswith("call_")
                names[delta.index] = delta.name
            arguments[delta.index] = arguments.get(delta.index, "") + delta.arguments
    return content, [(names[index], json.loads(arguments[index])) for index in names]


@given(
    _content,
    st.lists(st.tuples(st.text("xyz_", min_size=1, max_size=4), _arguments, st.booleans()), max_size=3),
    st.lists(st.integers(0, 300), max_size=30),
)
def test_calls_are_found_however_the_text_is_cut(
    before: str, calls: list[tuple[str, dict[str, Any], bool]], cuts: list[int]
) -> None:
    text = before
    for name, arguments, name_last in calls:
        call = {"arguments": arguments, "name": name} if name_last else {"name": name, "arguments": arguments}
        text += f"<tool_call>\n{json.dumps(call)}\n</tool_call>\n"
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    parts = [text[start:stop] for start, stop in itertools.pairwise(places)]

    content, found = _parse(HermesParser(), parts)

    assert content == before
    assert found == [(name, arguments) for name, arguments, _ in calls]


def test_arguments_are_passed_on_while_they_are_written() -> None:
    parser = HermesParser()

    deltas = [parser.push(part) for part in ('<tool_call>{"name": "f", "arguments": {"a', '": 1', "}}</tool_call>")]

    assert [delta.name for delta in deltas[0] if isinstance(delta, ToolCallDelta)] == ["f", None]
    assert [delta.arguments for delta in deltas[1] + deltas[2] if isinstance(delta, ToolCallDelta)] == ['": 1', "}"]


def test_what_only_looks_like_a_call_is_content() -> None:
    text = "<tool_call>not JSON</tool_call> and more"

    assert _parse(HermesParser(), list(text)) == (text, [])


def test_a_call_that_was_cut_off_before_its_name_is_content() -> None:
    assert _parse(HermesParser(), ['<tool_call>{"na']) == ('<tool_call>{"na', [])
