"""What users of the `openai` and `anthropic` packages get from a model of transformers behind Headrace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import headrace as serve
from headrace import client as driver
from headrace.llm import LLMConfig, LLMServer

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")
pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]

HELLO: list[Any] = [{"role": "user", "content": "Tell me a story about a mill."}]


@pytest.fixture(scope="module")
def address(tiny: Path) -> Iterator[str]:
    """The address of an application with the model `tiny`."""
    serve.start(http_options={"port": 0}, rest_options={"port": 0})
    try:
        serve.run(LLMServer.bind(LLMConfig(model=str(tiny), model_id="tiny", llm_engine="transformers")))
        yield driver.find().http_url or ""
    finally:
        serve.shutdown()


@pytest.fixture(scope="module")
def gpt(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def claude(address: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=address, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_a_chat_is_the_same_streamed_and_whole(gpt: openai.OpenAI) -> None:
    body: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 30, "seed": 1}
    whole = gpt.chat.completions.create(**body)
    stream = gpt.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)

    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_structured_output_is_parsed_by_the_client(gpt: openai.OpenAI) -> None:
    import pydantic

    class Person(pydantic.BaseModel):
        name: str
        likes_mills: bool

    answer = gpt.chat.completions.parse(model="tiny", messages=HELLO, response_format=Person, max_tokens=1500, seed=5)

    if answer.choices[0].finish_reason == "stop":
        assert isinstance(answer.choices[0].message.parsed, Person)


def test_a_tool_is_called_over_a_stream(gpt: openai.OpenAI) -> None:
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Rome", "Paris"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": parameters, "strict": True}}
    with gpt.chat.completions.stream(
        model="tiny", messages=HELLO, tools=[tool], max_tokens=300,
        tool_choice={"type": "function", "function": {"name": "weather"}},
    ) as stream:  # fmt: skip
        stream.until_done()
        message = stream.get_final_completion().choices[0].message

    assert message.tool_calls
    assert json.loads(message.tool_calls[0].function.arguments)["city"] in ("Rome", "Paris")


def test_a_response_is_streamed(gpt: openai.OpenAI) -> None:
    with gpt.responses.stream(
        model="tiny", input="Tell me a story.", max_output_tokens=20, extra_body={"ignore_eos": True}
    ) as stream:
        events = list(stream)

    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.incomplete", "a random model does not come to an end in time"
    assert said == last.response.output_text
    assert last.response.usage is not None and last.response.usage.output_tokens == 20


def test_a_message_is_streamed(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model="tiny", max_tokens=16, messages=HELLO) as stream:
        said = "".join(stream.text_stream)
        final = stream.get_final_message()

    assert said == "".join(block.text for block in final.content if block.type == "text")
    assert final.usage.input_tokens > 0
    assert claude.messages.count_tokens(model="tiny", messages=HELLO).input_tokens == final.usage.input_tokens


def test_a_wrong_parameter_is_the_clients_own_error(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        gpt.chat.completions.create(model="tiny", messages=HELLO, temperature=5)
    assert refused.value.param == "temperature"

    with pytest.raises(openai.BadRequestError) as too_long:
        gpt.completions.create(model="tiny", prompt="a " * 3000)
    assert too_long.value.code == "context_length_exceeded"
    assert "2048" in too_long.value.message

    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        claude.messages.create(model="tiny", max_tokens=5, messages=HELLO, extra_body={"temperature": 5})


async def test_many_streams_run_at_once(address: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:

        async def tokens(number: int) -> int:
            stream = await client.chat.completions.create(
                model="tiny", messages=HELLO, max_tokens=10 + number, stream=True,
                stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
            )  # fmt: skip
            last = [chunk async for chunk in stream][-1]
            assert last.usage is not None
            return int(last.usage.completion_tokens)

        assert await asyncio.gather(*map(tokens, range(24))) == list(range(10, 34))
