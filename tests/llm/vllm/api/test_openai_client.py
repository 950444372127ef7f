"""What users of the `openai` package get from vLLM behind Headrace."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

openai = pytest.importorskip("openai")
pytest.importorskip("vllm")
pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

HELLO = [{"role": "user", "content": "Tell me a story about a mill."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"enum": [1, 2, 3]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
# A random model may say at once that it has finished.
GO_ON = {"ignore_eos": True}


@pytest.fixture(scope="module")
def client(api: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_a_chat_completion_has_text_and_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="chat", messages=HELLO, max_tokens=12, temperature=0, extra_body=GO_ON
    )

    assert answer.model == "chat"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


def test_a_stream_says_the_same_token_by_token(client: openai.OpenAI) -> None:
    asked = {"model": "chat", "messages": HELLO, "max_tokens": 24, "temperature": 0, "extra_body": GO_ON}
    whole = client.chat.completions.create(**asked).choices[0].message.content

    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))

    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(texts) == whole
    assert chunks[-1].usage.completion_tokens == 24
    # Some tokens are part of a character and say nothing by themselves.
    assert len(texts) > 12


async def test_the_asynchronous_client_streams_too(api: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{api}/v1", api_key="none", max_retries=0) as client:
        stream = await client.completions.create(
            model="chat", prompt="The wheel", max_tokens=8, stream=True, extra_body=GO_ON
        )
        chunks = [chunk async for chunk in stream]

    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_seed_makes_answers_repeatable(client: openai.OpenAI) -> None:
    def say(seed: int) -> str:
        answer = client.completions.create(
            model="chat", prompt="The wheel", max_tokens=16, temperature=1.5, seed=seed, extra_body=GO_ON
        )
        return answer.choices[0].text

    assert say(1) == say(1)
    assert say(1) != say(2)


def test_n_gives_several_choices(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="chat", prompt="The wheel", n=3, max_tokens=16, temperature=1.5, seed=1, extra_body=GO_ON
    )

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.text for choice in answer.choices}) > 1


def test_generation_ends_at_a_stop_string(client: openai.OpenAI) -> None:
    asked = {"model": "chat", "prompt": "The wheel", "max_tokens": 48, "temperature": 0, "extra_body": GO_ON}
    whole = client.completions.create(**asked).choices[0].text
    middle = whole[len(whole) // 2 :][:3]

    choice = client.completions.create(**asked, stop=[middle]).choices[0]

    assert choice.finish_reason == "stop"
    assert choice.text == whole[: whole.index(middle)]


def test_log_probabilities_come_with_alternatives(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="chat", messages=HELLO, max_tokens=3, temperature=0, logprobs=True, top_logprobs=2, extra_body=GO_ON
    )

    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == 3
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)
    assert all(token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob for token in tokens)


def test_output_follows_a_json_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["Ada", "Grace"]}, "age": {"type": "integer", "minimum": 10, "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }

    answer = client.chat.completions.create(
        model="chat",
        messages=HELLO,
        max_tokens=100,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}},
    )

    person = json.loads(answer.choices[0].message.content)
    assert person["name"] in ("Ada", "Grace")
    assert 10 <= person["age"] <= 99


def test_a_tool_that_must_be_used_is_called_with_arguments_that_fit(client: openai.OpenAI) -> None:
    # A random model may write blanks between two values until its tokens are used up.
    for seed in range(10):
        answer = client.chat.completions.create(
            model="chat",
            messages=HELLO,
            tools=[WEATHER],
            tool_choice={"type": "function", "function": {"name": "weather"}},
            max_tokens=200,
            seed=seed,
        )
        if answer.choices[0].finish_reason != "length":
            break

    [call] = answer.choices[0].message.tool_calls
    assert call.function.name == "weather"
    arguments = json.loads(call.function.arguments)
    assert arguments["city"] in ("Paris", "Rome")
    assert arguments["days"] in (1, 2, 3)


def test_the_answer_of_a_tool_can_be_in_the_conversation(client: openai.OpenAI) -> None:
    call = {"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call-1", "content": "sunny"},
    ]

    answer = client.chat.completions.create(model="chat", messages=messages, tools=[WEATHER], max_tokens=8)

    assert answer.usage.completion_tokens >= 1


def test_the_responses_api_answers_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="chat", input="The wheel", max_output_tokens=16, temperature=0)
    assert whole.usage.output_tokens >= 1

    events = list(client.responses.create(model="chat", input="The wheel", max_output_tokens=16, stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")


def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="chat", prompt=[5] * 600, max_tokens=8)

    assert "512" in str(refused.value)
    assert "600" in str(refused.value) or "513" in str(refused.value)


def test_a_parameter_that_is_wrong_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model="chat", prompt="The wheel", temperature=-3)


def test_a_model_that_is_not_served_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no-such-model"):
        client.completions.create(model="no-such-model", prompt="The wheel")
