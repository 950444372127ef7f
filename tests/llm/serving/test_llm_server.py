"""A model served for real: over HTTP, through a handle, several at once."""

from __future__ import annotations

import json
import textwrap
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serve.conditions import deployment, ids, until

import headrace as serve
from headrace.exceptions import ConfigError, DeploymentFailedError
from headrace.llm import (
    CallbackBase,
    EngineRequest,
    EngineResponse,
    LLMConfig,
    LLMRequestError,
    LLMServer,
    build_llm_deployment,
    build_openai_app,
)
from headrace.local_testing import stop_local_applications

HELLO = [{"role": "user", "content": "hello"}]


def config(model: str = "m", **settings: Any) -> LLMConfig:
    return LLMConfig(model=model, llm_engine="simulated", **settings)


def chat(http: httpx.Client, model: str = "m", **fields: Any) -> httpx.Response:
    return http.post("/v1/chat/completions", json={"model": model, "messages": HELLO, **fields})


def test_one_line_serves_a_model_over_http(http: httpx.Client) -> None:
    serve.run(LLMServer.bind(config()))
    answer = chat(http, max_tokens=4).json()
    assert answer["usage"]["completion_tokens"] == 4
    assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["m"]


def test_an_answer_streams(http: httpx.Client) -> None:
    serve.run(LLMServer.bind(config()))
    whole = chat(http, max_tokens=300).json()["choices"][0]["message"]["content"]
    with http.stream(
        "POST",
        "/v1/chat/completions",
        json={"model": "m", "messages": HELLO, "max_tokens": 300, "stream": True},
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == whole


def test_a_handle_takes_the_same_requests(http: httpx.Client) -> None:
    handle = serve.run(LLMServer.bind(config()))
    request = {"messages": HELLO, "max_tokens": 3}
    whole = handle.chat.remote(request).result()
    assert whole["usage"]["completion_tokens"] == 3
    streaming = handle.options(stream=True)
    chunks = list(streaming.chat.remote({**request, "stream": True}))
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    # As in Ray Serve LLM, where every handle to a model streams: a whole answer is a stream of one.
    assert [answer["choices"] for answer in streaming.chat.remote(request)] == [whole["choices"]]
    assert handle.completions.remote({"prompt": "x", "max_tokens": 2}).result()["object"] == "text_completion"
    assert handle.embeddings.remote({"input": "x"}).result()["data"][0]["object"] == "embedding"
    tokens = handle.tokenize.remote({"prompt": "some text"}).result()["tokens"]
    assert handle.detokenize.remote({"tokens": tokens}).result() == {"prompt": "some text"}


def test_a_refused_call_of_a_handle_raises_what_http_clients_are_told(http: httpx.Client) -> None:
    handle = serve.run(LLMServer.bind(config()))
    with pytest.raises(LLMRequestError, match="n: must be from 1 to 128") as raised:
        handle.chat.remote({"messages": HELLO, "n": 0}).result()
    assert raised.value.status == 400
    assert raised.value.error["param"] == "n"


def test_several_models_are_served_by_one_application_and_scaled_apart(http: httpx.Client) -> None:
    args = {
        "llm_configs": [
            {"model": "small", "llm_engine": "simulated"},
            {
                "model_loading_config": {"model_id": "org/large.v2", "model_source": "elsewhere"},
                "llm_engine": "simulated",
                "deployment_config": {"num_replicas": 2},
            },
        ]
    }
    serve.run(build_openai_app(args))
    assert {model["id"] for model in http.get("/v1/models").json()["data"]} == {"small", "org/large.v2"}
    for model in ("small", "org/large.v2"):
        assert chat(http, model, max_tokens=2).json()["model"] == model
    assert len(deployment("LLMServer:small").replicas) == 1
    assert len(deployment("LLMServer:org--large_v2").replicas) == 2
    missing = chat(http, "larg")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("through_a_front", [False, True])
def test_hanging_up_ends_the_generation(http: httpx.Client, through_a_front: bool) -> None:
    slow = config(time_per_output_token_s=0.05, answer_tokens=10_000)
    serve.run(build_openai_app({"llm_configs": [slow]}) if through_a_front else LLMServer.bind(slow))
    handle = serve.get_deployment_handle("LLMServer:m")
    request = {"model": "m", "messages": HELLO, "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=request) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: {")
        assert handle.load.remote().result().running == 1
    until(lambda: handle.load.remote().result().running == 0, 5)


def test_hanging_up_on_an_answer_that_is_not_streamed_ends_it_too(http: httpx.Client) -> None:
    serve.run(build_openai_app({"llm_configs": [config(time_to_first_token_s=600.0)]}))
    model = serve.get_deployment_handle("LLMServer:m")
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/chat/completions", json={"model": "m", "messages": HELLO}, timeout=0.5)
    until(lambda: model.load.remote().result().running == 0, 5)


def test_cancelling_a_stream_of_a_handle_ends_the_generation(http: httpx.Client) -> None:
    handle = serve.run(LLMServer.bind(config(time_per_output_token_s=0.05, answer_tokens=10_000)))
    stream = handle.options(stream=True).chat.remote({"messages": HELLO, "stream": True})
    next(iter(stream))
    assert handle.load.remote().result().running == 1
    stream.cancel()
    until(lambda: handle.load.remote().result().running == 0, 5)


def test_a_model_that_loads_for_long_is_starting_and_not_dead(http: httpx.Client) -> None:
    options = {"health_check_period_s": 0.1, "health_check_timeout_s": 0.2}
    app = LLMServer.bind(config(loading_s=3.0, deployment_config=options))
    done = threading.Event()

    def run() -> None:
        serve.run(app)
        done.set()

    threading.Thread(target=run, daemon=True).start()

    def starting() -> bool:
        try:
            return [replica.state for replica in deployment("LLMServer:m").replicas] == ["STARTING"]
        except LookupError:
            return False

    until(starting)
    first = [replica.replica_id for replica in deployment("LLMServer:m").replicas]
    until(lambda: "loading nothing (simulated engine) " in deployment("LLMServer:m").message)
    assert not done.is_set()
    until(done.is_set)
    assert [replica.replica_id for replica in deployment("LLMServer:m").replicas] == first


def test_a_model_can_be_tried_in_one_process() -> None:
    handle = serve.run(LLMServer.bind(config()), name="local", local_testing_mode=True)
    assert handle.chat.remote({"messages": HELLO, "max_tokens": 3}).result()["usage"]["completion_tokens"] == 3
    stream = handle.options(stream=True).chat.remote({"messages": HELLO, "max_tokens": 3, "stream": True})
    assert len(list(stream)) == 5
    stop_local_applications("local")


@pytest.mark.parametrize("through_a_front", [False, True])
def test_a_sleeping_model_is_alive_but_not_ready(http: httpx.Client, through_a_front: bool) -> None:
    options = {"health_check_period_s": 0.05, "health_check_timeout_s": 1.0}
    one = config(deployment_config=options)
    serve.run(build_openai_app({"llm_configs": [one]}) if through_a_front else LLMServer.bind(one))
    handle = serve.get_deployment_handle("LLMServer:m")
    assert http.get("/health").status_code == 200
    handle.sleep.remote().result()
    assert handle.is_sleeping.remote().result() is True
    assert http.get("/health").status_code == 503
    before = [replica.replica_id for replica in deployment("LLMServer:m").replicas]
    assert deployment("LLMServer:m").status == "HEALTHY"
    handle.wakeup.remote().result()
    assert http.get("/health").status_code == 200
    assert [replica.replica_id for replica in deployment("LLMServer:m").replicas] == before


def test_a_server_tells_figures_to_scale_by(http: httpx.Client) -> None:
    handle = serve.run(LLMServer.bind(config(time_to_first_token_s=0.05)))
    assert handle.record_autoscaling_stats.remote().result() == {"running": 0, "waiting": 0, "kv_cache_use": 0.0}
    list(handle.options(stream=True).chat.remote({"messages": HELLO, "stream": True}))
    figures = handle.record_autoscaling_stats.remote().result()
    assert 0.05 <= figures["ttft_p50_s"] <= figures["ttft_p95_s"] < 5


def test_requests_for_an_adapter_go_where_it_was_used_before(http: httpx.Client, tmp_path: Path) -> None:
    for name in ("danish", "finnish"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    lora = {"dynamic_lora_loading_path": str(tmp_path), "max_num_adapters_per_replica": 1}
    base = config(lora_config=lora, deployment_config={"num_replicas": 2}, server_cls=Counting)
    serve.run(build_openai_app({"llm_configs": [base]}))
    listed = [model["id"] for model in http.get("/v1/models").json()["data"]]
    assert listed == ["m", "m:danish", "m:finnish"]
    for _ in range(20):
        assert chat(http, "m:danish").json()["model"] == "m:danish"
    model = serve.get_deployment_handle("Counting:m")
    counts: set[int] = set()

    def both_have_told() -> bool:
        counts.add(model.answered.remote().result())
        return len(counts) == 2

    until(both_have_told)
    assert counts == {0, 20}


class Counting(LLMServer):
    count = 0

    async def answer(self, request: EngineRequest) -> EngineResponse:
        self.count += 1
        return await super().answer(request)

    async def answered(self) -> int:
        return self.count


def test_a_model_without_lora_has_no_adapters(http: httpx.Client) -> None:
    serve.run(LLMServer.bind(config()))
    assert chat(http, "m:danish").status_code == 404


def test_an_engine_without_adapters_refuses_a_lora_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.llm.engines.find_spec", lambda name: name)
    with pytest.raises(ConfigError, match="lora_config: the engine 'transformers' has no adapters"):
        LLMServer.bind(LLMConfig(model="m", llm_engine="transformers", lora_config={}))


def test_another_config_of_a_model_leaves_the_front_and_other_models_alone(http: httpx.Client) -> None:
    other = config("other")
    serve.run(build_openai_app({"llm_configs": [config(), other]}))
    before = {name: ids(name) for name in ("LLMIngress", "LLMServer:m", "LLMServer:other")}
    changed = config(answer_tokens=3, deployment_config={"max_queued_requests": 5})
    serve.run(build_openai_app({"llm_configs": [changed, other]}))
    after = {name: ids(name) for name in before}
    assert after["LLMServer:m"].isdisjoint(before["LLMServer:m"])
    del after["LLMServer:m"], before["LLMServer:m"]
    assert after == before


def test_more_replicas_leave_those_that_run_alone(http: httpx.Client) -> None:
    serve.run(LLMServer.bind(config()))
    (first,) = ids("LLMServer:m")
    serve.run(LLMServer.bind(config(deployment_config={"num_replicas": 2})))
    assert first in ids("LLMServer:m")
    assert len(ids("LLMServer:m")) == 2
    serve.run(LLMServer.bind(config(answer_tokens=3, deployment_config={"num_replicas": 2})))
    assert first not in ids("LLMServer:m")


@pytest.mark.parametrize("metric", ["kv_cache_use", "ttft_p95_s"])
def test_a_model_scales_by_what_its_engine_tells(http: httpx.Client, metric: str) -> None:
    scaling = {
        "min_replicas": 1,
        "max_replicas": 2,
        "target_metrics": {metric: 0.5},
        "metrics_interval_s": 0.1,
        "look_back_period_s": 0.5,
        "upscale_delay_s": 0.1,
    }
    slow = config(
        time_to_first_token_s=0.6,
        time_per_output_token_s=0.05,
        max_num_seqs=4,
        deployment_config={"autoscaling_config": scaling},
    )
    handle = serve.run(LLMServer.bind(slow)).options(stream=True)
    assert len(ids("LLMServer:m")) == 1
    request = {"messages": HELLO, "stream": True, "max_tokens": 400}
    streams = [handle.chat.remote(request) for _ in range(4)]
    until(lambda: len(ids("LLMServer:m")) == 2)
    for stream in streams:
        stream.cancel()


def test_a_subclass_may_change_what_it_answers(http: httpx.Client) -> None:
    app = build_llm_deployment(config(), deployment_cls=Polite, name_prefix="Polite-", bind_kwargs={"word": "please"})
    handle = serve.run(app)
    assert deployment("Polite-m").status == "HEALTHY"
    assert handle.chat.remote({"messages": HELLO}).result()["said"] == "please"
    assert chat(http).status_code == 200


class Polite(LLMServer):
    async def __init__(self, llm_config: LLMConfig, word: str = "") -> None:  # type: ignore[misc]
        await super().__init__(llm_config)
        self.word = word

    async def chat(self, request: Any, raw_request_info: Any = None) -> Any:
        return {**await super().chat(request), "said": self.word}


def test_callbacks_run_around_the_start_of_the_engine(http: httpx.Client, tmp_path: Path) -> None:
    path = tmp_path / "log"
    callback = {"callback_class": Noting, "callback_kwargs": {"path": str(path)}}
    serve.run(LLMServer.bind(config(callback_config=callback)))
    assert path.read_text() == "before m\nafter m\n"


def test_a_callback_that_raises_keeps_the_model_from_starting_unless_told_otherwise(http: httpx.Client) -> None:
    callback = {"callback_class": Noting, "callback_kwargs": {"path": "/nowhere/log"}}
    options = {"max_constructor_retry_count": 1}
    with pytest.raises(DeploymentFailedError, match=r"callback Noting\.on_before_node_init raised FileNotFoundError"):
        serve.run(LLMServer.bind(config(callback_config=callback, deployment_config=options)))
    callback["raise_error_on_callback"] = False
    serve.run(LLMServer.bind(config(callback_config=callback)))
    assert chat(http).status_code == 200


class Noting(CallbackBase):
    def on_before_node_init(self) -> None:  # type: ignore[override]
        self.note("before")

    async def on_after_node_init(self) -> None:
        self.note("after")

    def note(self, what: str) -> None:
        with open(self.kwargs["path"], "a") as file:
            file.write(f"{what} {self.llm_config.model_id}\n")


def test_a_plain_deployment_of_the_class_works_too(http: httpx.Client) -> None:
    deployed: Any = serve.deployment(LLMServer)
    serve.run(deployed.bind(config()))
    assert chat(http).status_code == 200


def test_a_model_may_be_a_part_of_another_application(http: httpx.Client) -> None:
    model = build_llm_deployment(config(), override_serve_options={"num_replicas": 1})
    serve.run(Shouting.bind(model))
    assert http.get("/").text.isupper()


@serve.deployment
class Shouting:
    def __init__(self, model: serve.DeploymentHandle[Any]) -> None:
        self.model = model

    async def __call__(self) -> str:
        answer = await self.model.chat.remote({"messages": HELLO, "max_tokens": 3})
        text: str = answer["choices"][0]["message"]["content"]
        return text.upper()


@pytest.mark.skipif(find_spec("llama_cpp") is not None, reason="llama.cpp is installed")
def test_an_engine_that_is_not_installed_is_told_of_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'headrace\[llamacpp\]'"):
        LLMServer.bind(LLMConfig(model="m.gguf", llm_engine="llamacpp"))


def test_a_wrong_engine_argument_fails_the_deployment_with_its_name(http: httpx.Client) -> None:
    app = LLMServer.bind(config(answer_token=3, deployment_config={"max_constructor_retry_count": 1}))
    with pytest.raises(DeploymentFailedError, match="did you mean 'answer_tokens'"):
        serve.run(app)


YAML = """
applications:
  - name: llms
    route_prefix: /
    import_path: {import_path}
    args:
      llm_configs:
        - model: one
          llm_engine: simulated
        - {folder}/two.yaml
"""


@pytest.mark.parametrize("import_path", ["headrace.llm:build_openai_app", "ray.serve.llm:build_openai_app"])
def test_a_config_file_serves_several_models(
    http: httpx.Client, instance: Any, tmp_path: Path, import_path: str
) -> None:
    (tmp_path / "two.yaml").write_text("model: two\nllm_engine: simulated\n")
    import yaml

    config_file = yaml.safe_load(textwrap.dedent(YAML).format(folder=tmp_path, import_path=import_path))
    with httpx.Client(base_url=instance.rest_url) as rest:
        assert rest.put("/api/serve/applications/", json=config_file).status_code == 200

    def running() -> bool:
        applications = serve.status().applications
        assert applications["llms"].status != "DEPLOY_FAILED", applications["llms"].message
        return applications["llms"].status == "RUNNING"

    until(running)
    assert chat(http, "one").status_code == chat(http, "two").status_code == 200


def test_answers_survive_an_update_that_is_rolled_out_meanwhile(http: httpx.Client) -> None:
    serve.run(LLMServer.bind(config(time_per_output_token_s=0.01)))
    statuses: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            with http.stream(
                "POST",
                "/v1/chat/completions",
                json={"model": "m", "messages": HELLO, "max_tokens": 50, "stream": True},
            ) as response:
                text = response.read()
            statuses.append(response.status_code if text.endswith(b"data: [DONE]\n\n") else 0)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(statuses) >= 4)
    serve.run(LLMServer.bind(config(time_per_output_token_s=0.011)))
    seen = len(statuses)
    until(lambda: len(statuses) >= seen + 4)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}
