"""vLLM behind Headrace: Anthropic's API, and what is beside OpenAI's."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

anthropic = pytest.importorskip("anthropic")
pytest.importorskip("vllm")
pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

HELLO = [{"role": "user", "content": "Tell me a story about a mill."}]


@pytest.fixture(scope="module")
def claude(api: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=api, api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def http(api: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api, timeout=60) as client:
        yield client


def test_a_message_of_anthropics_api_is_answered(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(model="chat", max_tokens=16, messages=HELLO)

    assert message.role == "assistant"
    assert message.usage.output_tokens >= 1


def test_a_message_of_anthropics_api_is_streamed(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model="chat", max_tokens=16, messages=HELLO) as stream:
        said = "".join(stream.text_stream)
        final = stream.get_final_message()

    assert said == "".join(block.text for block in final.content if block.type == "text")


def test_text_becomes_tokens_and_text_again(http: httpx.Client) -> None:
    tokens = http.post("/tokenize", json={"model": "chat", "prompt": "the wheel", "add_special_tokens": False}).json()
    text = http.post("/detokenize", json={"model": "chat", "tokens": tokens["tokens"]}).json()

    assert tokens["count"] == len(tokens["tokens"]) > 0
    assert text["prompt"] == "the wheel"


def test_adapters_are_loaded_when_they_are_asked_for(http: httpx.Client) -> None:
    def say(model: str) -> str:
        body = {"model": model, "prompt": "The wheel", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
        answer = http.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == model
        return str(answer.json()["choices"][0]["text"])

    said = {model: say(model) for model in ("chat", "chat:one", "chat:two")}

    assert len(set(said.values())) == 3
    assert said == {model: say(model) for model in said}


@pytest.mark.parametrize("name", ["chat:three", "chat:../adapters/one"])
def test_an_adapter_that_does_not_exist_is_not_found(http: httpx.Client, name: str) -> None:
    answer = http.post("/v1/completions", json={"model": name, "prompt": "The wheel"})

    assert answer.status_code == 404
    assert name in answer.json()["error"]["message"]


def test_a_client_that_hangs_up_ends_the_generation(http: httpx.Client) -> None:
    from tests.serve.conditions import until

    import headrace as serve
    from headrace.llm.engines.protocol import EngineLoad

    handle = serve.get_deployment_handle("LLMServer:chat", "default")

    def load() -> EngineLoad:
        answer: EngineLoad = handle.load.remote().result(timeout_s=10)
        return answer

    assert load() == EngineLoad(running=0, waiting=0, kv_cache_use=0.0)
    # More than fits into one batch, so that there is time to look.
    body = {"model": "chat", "prompt": "The wheel", "n": 16, "max_tokens": 500, "ignore_eos": True, "stream": True}
    answers = [http.send(http.build_request("POST", "/v1/completions", json=body), stream=True) for _ in range(6)]
    until(lambda: load().running > 0 and load().kv_cache_use, seconds=5)
    for answer in answers:
        answer.close()
    until(lambda: load() == EngineLoad(running=0, waiting=0, kv_cache_use=0.0), seconds=5)
    # vLLM's own account of it comes with its next step.
    http.post("/v1/completions", json={"model": "chat", "prompt": "The wheel", "max_tokens": 2}).raise_for_status()
    for gauge in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"):
        values = [float(line.rpartition(" ")[2]) for line in _metrics(http) if line.startswith(f"{gauge}{{")]
        assert values and not any(values), gauge


def _metrics(http: httpx.Client) -> list[str]:
    return http.get("/-/metrics").text.splitlines()


def test_vllms_own_metrics_are_scraped_with_the_others(http: httpx.Client) -> None:
    http.post("/v1/completions", json={"model": "chat", "prompt": "The wheel", "max_tokens": 4})

    assert any("vllm:generation_tokens_total" in line for line in _metrics(http))
