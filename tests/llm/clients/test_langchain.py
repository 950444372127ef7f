"""LangChain's client of OpenAI's API: against the simulated engine, and where an answer needs a model, a tiny one
of transformers, whose words are random and whose form is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from pydantic import BaseModel, SecretStr
from tests.llm.tiny_llama import make_tiny_llama

import headrace as serve
from headrace import client as driver
from headrace.llm import build_openai_app

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]

KEY = "key-of-the-tests"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    serve.start(http_options={"port": 0, "num_proxies": 1}, rest_options={"port": 0})
    try:
        tiny = make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")
        models = [
            {"model": "pretend", "llm_engine": "simulated"},
            {"model": str(tiny), "model_id": "tiny", "llm_engine": "transformers"},
        ]
        serve.run(build_openai_app({"llm_configs": models, "api_keys": [KEY], "batch_config": None}))
        yield f"{driver.find().http_url}/v1"
    finally:
        serve.shutdown()


def chat(url: str, model: str = "pretend", max_tokens: int = 12, **options: Any) -> Any:
    from langchain_openai import ChatOpenAI

    key = SecretStr(KEY)
    return ChatOpenAI(
        model=model, base_url=url, api_key=key, max_retries=0, max_completion_tokens=max_tokens, **options
    )


def test_a_question_is_answered_with_its_usage(url: str) -> None:
    answer = chat(url).invoke([("system", "Be short."), ("human", "Hello")])
    assert len(answer.content.split()) > 3
    assert answer.usage_metadata["output_tokens"] == 12
    assert answer.response_metadata["finish_reason"] == "length"


def test_a_stream_has_the_pieces_of_the_same_answer_and_its_usage(url: str) -> None:
    model = chat(url, stream_usage=True, seed=1)
    pieces = list(model.stream("Hello"))
    assert len(pieces) > 3
    assert "".join(piece.content for piece in pieces) == model.invoke("Hello").content
    assert sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata) == 12


async def test_questions_are_answered_async_and_in_batches(url: str) -> None:
    model = chat(url)
    answers = await model.abatch(["one", "two", "three"])
    assert all(answer.content for answer in answers)
    assert [piece async for piece in model.astream("Hello")]


def test_a_bound_tool_is_called_with_arguments_of_its_schema(url: str) -> None:
    from langchain_core.tools import tool

    @tool
    def weather(city: Literal["Paris", "Rome"], days: Literal[1, 2]) -> str:
        """The weather of a city in some days."""
        return f"{city} {days}"

    # Strict: else the model goes on with arguments of its own until its tokens are used up.
    model = chat(url, "tiny", 400).bind_tools([weather], tool_choice="weather", strict=True)
    (call,) = model.invoke("How will the weather be?").tool_calls
    assert call["name"] == "weather"
    assert weather.invoke(call["args"]) in {f"{city} {days}" for city in ("Paris", "Rome") for days in (1, 2)}


def test_structured_output_has_the_schema(url: str) -> None:
    class City(BaseModel, extra="forbid"):
        name: Literal["Paris", "Rome"]
        large: bool

    city = chat(url, "tiny", 400).with_structured_output(City, method="json_schema").invoke("Name a city")
    assert isinstance(city, City)


def test_the_responses_api_answers_too(url: str) -> None:
    assert chat(url, use_responses_api=True).invoke("Hello").text


def test_texts_are_embedded(url: str) -> None:
    from langchain_openai import OpenAIEmbeddings

    # It would ask the internet for OpenAI's tokenizer, to cut texts that are too long for OpenAI's models.
    embeddings = OpenAIEmbeddings(
        model="pretend", base_url=url, api_key=SecretStr(KEY), check_embedding_ctx_length=False
    )
    one, two = embeddings.embed_documents(["one", "two"])
    assert len(one) == len(two) == 256
    assert embeddings.embed_query("one") == pytest.approx(one)


def test_a_wrong_key_and_a_wrong_model_raise_the_clients_own_errors(url: str) -> None:
    import openai
    from langchain_openai import ChatOpenAI

    with pytest.raises(openai.AuthenticationError):
        ChatOpenAI(model="pretend", base_url=url, api_key=SecretStr("other"), max_retries=0).invoke("Hello")
    with pytest.raises(openai.NotFoundError, match="did you mean 'pretend'"):
        ChatOpenAI(model="pretent", base_url=url, api_key=SecretStr(KEY), max_retries=0).invoke("Hello")
