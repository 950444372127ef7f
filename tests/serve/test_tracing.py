"""Traces, as a real collector receives them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from websockets.sync.client import connect

import headrace as serve
from headrace import client as driver

from .conditions import until
from .otlp_receiver import Receiver, receiver

pytestmark = pytest.mark.local_engine("the collector listens on this machine's loopback")


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    with receiver() as received:
        yield received


@pytest.fixture(scope="module")
def instance(collector: Receiver) -> Iterator[driver.Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        patch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=of-the-collector")
        serve.start(
            http_options={"port": 0, "num_proxies": 1},
            rest_options={"port": 0},
            tracing_config={"endpoint": collector.url, "service_name": "shop"},
        )
        yield driver.find()
        serve.shutdown()


class Parent:
    """A client's span."""

    def __init__(self, sampled: bool = True) -> None:
        self.trace_id = secrets.token_hex(16)
        self.span_id = secrets.token_hex(8)
        self.headers = {"traceparent": f"00-{self.trace_id}-{self.span_id}-0{int(sampled)}"}


def user_span(name: str) -> Any:
    from opentelemetry import trace

    return trace.get_tracer("the user's").start_as_current_span(name)


@serve.deployment
class Sync:
    def __call__(self, text: str) -> str:
        with user_span("in a thread"):
            return text.upper()


@serve.deployment
class Async:
    async def __call__(self, text: str) -> str:
        with user_span("in a task"):
            await asyncio.sleep(0)
            return text.lower()


@serve.deployment
class Batched:
    def __init__(self, lower: serve.DeploymentHandle[Any]) -> None:
        self.lower = lower

    @serve.batch(max_batch_size=2, batch_wait_timeout_s=60)
    async def __call__(self, texts: list[str]) -> list[str]:
        lowered = await self.lower.remote(" ".join(texts))
        return [f"{lowered}!" for _ in texts]


@serve.deployment
class Ingress:
    def __init__(self, *handles: serve.DeploymentHandle[Any]) -> None:
        self.upper, self.lower, self.batched = handles

    async def __call__(self, request: Any) -> str:
        from opentelemetry import baggage, propagate

        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        upper, lower = await asyncio.gather(self.upper.remote("a"), self.lower.remote("B"))
        batched = await self.batched.remote("C")
        return " ".join([upper, lower, batched, carrier["traceparent"], str(baggage.get_baggage("user"))])


def test_one_trace_goes_from_the_client_through_every_deployment_and_batch(
    http: httpx.Client, collector: Receiver
) -> None:
    lower = Async.bind()
    serve.run(Ingress.bind(Sync.bind(), lower, Batched.bind(lower)), route_prefix="/shop")
    one, two = Parent(), Parent()
    answers: dict[Parent, httpx.Response] = {}

    def ask(parent: Parent) -> None:
        more = {"tracestate": "vendor=1", "baggage": "user=ann", "x-request-id": f"id-{parent.span_id}"}
        answers[parent] = http.get("/shop/x?secret=1", headers={**parent.headers, **more})

    # Two, since a batch is of two.
    askers = [threading.Thread(target=ask, args=(parent,)) for parent in (one, two)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert all(answer.text.startswith("A b c c! ") for answer in answers.values())
    usual = [
        "GET /shop SERVER",
        "  Ingress.__call__ SERVER",
        "    Async.__call__ CLIENT",
        "      Async.__call__ SERVER",
        "        in a task INTERNAL",
        "    Batched.__call__ CLIENT",
        "      Batched.__call__ SERVER",
        "        wait for batch __call__ INTERNAL",
        "    Sync.__call__ CLIENT",
        "      Sync.__call__ SERVER",
        "        in a thread INTERNAL",
    ]
    of_batch = [
        "        batch __call__ INTERNAL",
        "          Async.__call__ CLIENT",
        "            Async.__call__ SERVER",
        "              in a task INTERNAL",
    ]
    until(lambda: len(collector.trace(one.trace_id)) + len(collector.trace(two.trace_id)) >= 26, 30)
    first, other = sorted((one, two), key=lambda parent: -len(collector.trace(parent.trace_id)))
    tree, others = collector.whole_trace(first.trace_id, 15), collector.whole_trace(other.trace_id, 11)
    assert tree.outline(first.span_id) == usual[:7] + of_batch + usual[7:]
    assert others.outline(other.span_id) == usual

    # The batch and its requests point to each other.
    to_batched = ("GET /shop SERVER", "Ingress.__call__ SERVER", "Batched.__call__ CLIENT", "Batched.__call__ SERVER")
    asking = [t.below(p.span_id, *to_batched) for t, p in ((tree, first), (others, other))]
    batch = tree.below(asking[0].span_id, "batch __call__ INTERNAL")
    assert sorted(batch.links) == sorted(span.span_id for span in asking)
    assert batch.attributes == {"headrace.batch.size": 2, "headrace.batch.max_size": 2}
    for span, where in zip(asking, (tree, others), strict=True):
        assert where.below(span.span_id, "wait for batch __call__ INTERNAL").links == [batch.span_id]

    # What a span says.
    proxy = tree.below(first.span_id, "GET /shop SERVER")
    assert proxy.attributes == {
        "http.request.method": "GET",
        "http.route": "/shop",
        "http.response.status_code": 200,
        "url.path": "/shop/x",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "client.address": "127.0.0.1",
        "headrace.application": "default",
        "headrace.request_id": f"id-{first.span_id}",
    }
    replica = tree.below(proxy.span_id, "Ingress.__call__ SERVER")
    assert replica.attributes["headrace.deployment"] == "Ingress"
    assert replica.attributes["headrace.request_id"] == f"id-{first.span_id}"
    assert replica.resource["service.name"] == "shop"
    assert replica.resource["service.instance.id"] == replica.attributes["headrace.replica"]
    assert proxy.start <= replica.start <= replica.end <= proxy.end
    assert not any(span.error for span in tree.spans)

    # What comes in with the request goes out with it.
    outgoing, user = answers[first].text.split(" ")[-2:]
    assert outgoing == f"00-{first.trace_id}-{replica.span_id}-01"
    assert user == "ann"
    assert all(span.state == "vendor=1" for span in tree.spans)
    assert all(headers["api-key"] == "of-the-collector" for headers in collector.headers)


@serve.deployment
class Wrong:
    def __call__(self, request: Any) -> str:
        raise ValueError("no such colour")


def test_failures_are_told_and_marked(http: httpx.Client, collector: Receiver) -> None:
    serve.run(Wrong.bind(), route_prefix="/wrong")
    parent = Parent()
    assert http.get("/wrong", headers=parent.headers).status_code == 500
    tree = collector.whole_trace(parent.trace_id, 2)
    proxy = tree.below(parent.span_id, "GET /wrong SERVER")
    replica = tree.below(proxy.span_id, "Wrong.__call__ SERVER")
    assert proxy.error and proxy.attributes["http.response.status_code"] == 500
    assert replica.error and replica.attributes["error.type"] == "ValueError"
    (event,) = replica.events
    assert (event["name"], event["exception.type"], event["exception.message"]) == (
        "exception",
        "ValueError",
        "no such colour",
    )
    assert "in __call__" in event["exception.stacktrace"]


@serve.deployment
class Words:
    def each(self, count: int) -> Iterator[str]:
        with user_span("words"):
            for index in range(count):
                if index == 3:
                    raise KeyError(index)
                yield f"word {index} "


@serve.deployment
class Streaming:
    def __init__(self, words: serve.DeploymentHandle[Any]) -> None:
        self.words = words.options(stream=True)

    async def __call__(self, request: Any) -> Any:
        from starlette.responses import StreamingResponse

        async def pieces() -> AsyncIterator[str]:
            async for word in self.words.each.remote(int(request.query_params["count"])):
                yield word

        return StreamingResponse(pieces())


def test_a_stream_ends_its_spans_when_it_ends(http: httpx.Client, collector: Receiver) -> None:
    serve.run(Streaming.bind(Words.bind()), route_prefix="/stream")
    parent = Parent()
    assert http.get("/stream?count=2", headers=parent.headers).text == "word 0 word 1 "
    tree = collector.whole_trace(parent.trace_id, 5)
    path = (
        "GET /stream SERVER",
        "Streaming.__call__ SERVER",
        "Words.each CLIENT",
        "Words.each SERVER",
        "words INTERNAL",
    )
    inner = tree.below(parent.span_id, *path)
    assert not any(span.error or span.end < inner.end for span in tree.spans)

    broken = Parent()
    with pytest.raises(httpx.RemoteProtocolError):
        http.get("/stream?count=9", headers=broken.headers)
    tree = collector.whole_trace(broken.trace_id, 5)
    failed = tree.below(broken.span_id, *path[:4])
    assert failed.attributes["error.type"] == "KeyError"
    assert tree.below(broken.span_id, *path[:3]).attributes["error.type"] == "KeyError"
    assert all(span.error for span in tree.spans)


@serve.deployment(max_ongoing_requests=1)
class Slow:
    def __init__(self) -> None:
        self.hold = asyncio.Event()

    async def __call__(self, request: Any) -> str:
        await self.hold.wait()
        return "done"


def test_a_client_that_leaves_and_one_that_waits_are_told_apart(http: httpx.Client, collector: Receiver) -> None:
    serve.run(Slow.bind(), route_prefix="/slow")
    leaving, waiting = Parent(), Parent()
    for parent in (leaving, waiting):  # the second finds the replica taken
        with pytest.raises(httpx.ReadTimeout):
            http.get("/slow", headers=parent.headers, timeout=0.3)
    tree = collector.whole_trace(leaving.trace_id, 2)
    assert all(span.attributes["headrace.cancelled"] and not span.error for span in tree.spans)


@serve.deployment(max_ongoing_requests=1)
class Gate:
    def __init__(self) -> None:
        self.entered = 0
        self.open = asyncio.Event()

    async def __call__(self, _: str) -> str:
        self.entered += 1
        await self.open.wait()
        return "done"

    async def entered_by(self) -> int:
        return self.entered


@serve.deployment
class TwoAtOnce:
    def __init__(self, gate: serve.DeploymentHandle[Any]) -> None:
        self.gate = gate

    async def __call__(self, request: Any) -> list[str]:
        await self.gate.entered_by.remote()  # connects, too
        # The second gives up first: when the first did, it would find room for a moment.
        calls = [self.gate.options(timeout_s=timeout_s).remote("in") for timeout_s in (1.0, 0.5)]
        return [type(error).__name__ for error in await asyncio.gather(*calls, return_exceptions=True)]


def test_waiting_in_the_queue_is_a_span_of_its_own(http: httpx.Client, collector: Receiver) -> None:
    serve.run(TwoAtOnce.bind(Gate.bind()), route_prefix="/two")
    parent = Parent()
    assert http.get("/two", headers=parent.headers).json() == ["RequestTimeoutError"] * 2
    tree = collector.whole_trace(parent.trace_id, 7)  # the second call never comes to the replica
    calls = [span for span in tree.spans if span.name == "Gate.__call__" and span.kind == "CLIENT"]
    assert [span.attributes["error.type"] for span in calls] == ["RequestTimeoutError"] * 2
    waits = [span for span in collector.trace(parent.trace_id, waits=True) if span.name == "wait for a replica"]
    # A call that a replica turned away has waited twice.
    longest = max(span.end - span.start for span in waits if span.parent_id in [call.span_id for call in calls])
    assert longest > 0.3e9


api = FastAPI()


@serve.deployment
@serve.ingress(api)
class Echo:
    @api.websocket("/echo")
    async def echo(self, socket: WebSocket) -> None:
        await socket.accept()
        with user_span("echo"):
            await socket.send_text(await socket.receive_text())
        await socket.close()


def test_a_websocket_is_a_span_for_as_long_as_it_is_open(http: httpx.Client, collector: Receiver) -> None:
    serve.run(Echo.bind(), route_prefix="/ws")
    parent = Parent()
    url = f"{http.base_url}".replace("http", "ws", 1).rstrip("/")
    with connect(f"{url}/ws/echo", additional_headers=parent.headers) as socket:
        socket.send("hello")
        assert socket.recv() == "hello"
    tree = collector.whole_trace(parent.trace_id, 3)
    expected = ["WebSocket /ws SERVER", "  Echo.__call__ SERVER", "    echo INTERNAL"]
    assert tree.outline(parent.span_id) == expected
    assert tree.below(parent.span_id, expected[0]).attributes["headrace.websocket.close_code"] == 1000


def test_what_the_client_does_not_sample_is_not_recorded(http: httpx.Client, collector: Receiver) -> None:
    lower = Async.bind()
    serve.run(Ingress.bind(Sync.bind(), lower, Sync.options(name="Batched").bind()), route_prefix="/quiet")
    unsampled, sampled = Parent(sampled=False), Parent()
    text = http.get("/quiet", headers=unsampled.headers).text
    assert text.split(" ")[-2].startswith(f"00-{unsampled.trace_id}-") and text.split(" ")[-2].endswith("-00")
    http.get("/quiet", headers=sampled.headers)
    collector.whole_trace(sampled.trace_id, 11)
    assert not collector.trace(unsampled.trace_id)


def test_a_request_without_a_trace_begins_one(http: httpx.Client, collector: Receiver) -> None:
    serve.run(Async.bind(), route_prefix=None, name="plain").remote("B").result()
    serve.run(Wrong.bind(), route_prefix="/begins")
    http.get("/begins")
    until(lambda: any(span.name == "GET /begins" for span in collector.spans), 30)
    (proxy,) = (span for span in collector.spans if span.name == "GET /begins")
    assert proxy.parent_id == ""
    collector.whole_trace(proxy.trace_id, 2)


def test_traces_of_models_tell_tokens_and_no_texts(http: httpx.Client, collector: Receiver) -> None:
    from headrace.llm import LLMConfig, build_openai_app

    config = LLMConfig(model_loading_config={"model_id": "pretend"}, llm_engine="simulated")
    serve.run(build_openai_app({"llm_configs": [config]}), route_prefix="/", name="llm")
    parent = Parent()
    body = {"model": "pretend", "messages": [{"role": "user", "content": "tell a secret"}], "max_tokens": 5}
    respond = "LLMServer:pretend.respond"
    path = ("POST / SERVER", "LLMIngress.__call__ SERVER", f"{respond} CLIENT", f"{respond} SERVER")
    answer = http.post("/v1/chat/completions", json={**body, "stream": True}, headers=parent.headers)
    assert answer.status_code == 200
    tree = collector.whole_trace(parent.trace_id, 7)  # two are of the question what the model is
    model = tree.below(parent.span_id, *path, "chat pretend INTERNAL")
    told = dict(model.attributes)
    assert 0 <= told.pop("gen_ai.response.time_to_first_chunk") < 30
    assert told.pop("gen_ai.usage.input_tokens") > 0
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "simulated",
        "gen_ai.request.model": "pretend",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "pretend",
        "gen_ai.usage.output_tokens": 5,
    }
    assert "secret" not in str(collector.trace(parent.trace_id))


def test_tracing_config_is_taken_when_the_instance_starts(
    instance: driver.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "headrace"):
        serve.start(tracing_config={"sampling_ratio": 0.5})
    assert "tracing_config.sampling_ratio" in caplog.text
