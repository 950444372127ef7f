"""The front of the API over engines in the same process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from headrace.exceptions import BackPressureError, ReplicaUnavailableError, RequestTimeoutError
from headrace.llm.api import Affinity, LocalBackend, create_front
from headrace.llm.engines.protocol import EngineRequest, EngineResponse, ModelInfo

from .conftest import MODEL, backend, client_of, front

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


def error_of(response: httpx.Response) -> dict[str, Any]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error  # type: ignore[no-any-return]


async def test_models_are_listed_and_described_by_ids_with_slashes() -> None:
    async with front() as client:
        listed = (await client.get("/v1/models")).json()
        assert [model["id"] for model in listed["data"]] == [MODEL, "plain"]
        for path in (f"/v1/models/{MODEL}", "/v1/models/org%2Fsim"):
            model = (await client.get(path)).json()
            assert (model["id"], model["object"], model["owned_by"]) == (MODEL, "model", "headrace")
            assert model["max_model_len"] == 32768
        missing = await client.get("/v1/models/org/sum")
        assert missing.status_code == 404 and "did you mean 'org/sim'?" in error_of(missing)["message"]


async def test_anthropics_clients_get_its_list_of_models() -> None:
    async with front() as client:
        listed = (await client.get("/v1/models", headers={"anthropic-version": "2023-06-01"})).json()
        assert (listed["first_id"], listed["last_id"], listed["has_more"]) == (MODEL, "plain", False)
        assert listed["data"][0]["type"] == "model"
        one = (await client.get(f"/v1/models/{MODEL}", headers={"anthropic-version": "2023-06-01"})).json()
        assert one == listed["data"][0]


async def test_adapters_are_models_whose_parent_is_the_base() -> None:
    base = await backend()
    assert base.info is not None
    asked: list[Affinity] = []

    class WithAdapters(LocalBackend):
        async def respond(self, request: EngineRequest, affinity: Affinity) -> EngineResponse:
            asked.append(affinity)
            return await super().respond(request, affinity)

    adapted = WithAdapters(base._answer, base.check_health, base.info, adapters=["law", "med:v2"])
    async with client_of(create_front({"a:b": adapted, "bare": base})) as client:
        listed = (await client.get("/v1/models")).json()["data"]
        assert [(model["id"], model["parent"]) for model in listed] == [
            ("a:b", None),
            ("a:b:law", "a:b"),
            ("a:b:med:v2", "a:b"),
            ("bare", None),
        ]
        for model in ("a:b", "a:b:law", "a:b:new:one"):
            await client.post("/v1/chat/completions", json={**CHAT, "model": model})
        assert [affinity.adapter_id for affinity in asked] == ["", "a:b:law", "a:b:new:one"]
        assert (await client.post("/v1/chat/completions", json={**CHAT, "model": "bare:law"})).status_code == 404


@pytest.mark.parametrize("stream", [False, True])
async def test_the_engine_gets_the_clients_bytes_and_the_client_the_engines(stream: bool) -> None:
    seen: list[EngineRequest] = []
    answered = [b'data: {"a": 1}\n\n', b"data: [DONE]\n\n"]

    async def answer(request: EngineRequest) -> EngineResponse:
        seen.append(request)

        async def pieces() -> AsyncGenerator[bytes, None]:
            for piece in answered:
                yield piece

        body: Any = pieces() if stream else b"{ }"
        kind = "text/event-stream" if stream else "application/json"
        return EngineResponse(200, body, kind, {"X-Engine": "e"})

    base = await backend()
    assert base.info is not None
    body = b'{  "model" : "m", "messages":[], "unknown": [1,2,{"deep": null}] }'
    async with client_of(create_front({"m": LocalBackend(answer, base.check_health, base.info)})) as client:
        headers = {"x-request-id": "r1", "x-session-id": "s1", "authorization": "Bearer secret", "cookie": "c"}
        response = await client.post("/v1/chat/completions", content=body, headers=headers)
    assert response.content == (b"".join(answered) if stream else b"{ }")
    assert response.headers["x-engine"] == "e"
    assert response.headers["content-type"].startswith("text/event-stream" if stream else "application/json")
    (request,) = seen
    assert (request.path, request.body, request.request_id) == ("/v1/chat/completions", body, "r1")
    assert request.headers == {"x-session-id": "s1"}  # no credentials
    assert request.received_at > 0


async def test_a_route_prefix_is_no_part_of_the_path() -> None:
    app = create_front({MODEL: await backend()})
    async with client_of(app, root_path="/llm") as client:
        assert (await client.get("/llm/v1/models")).status_code == 200
        assert (await client.post("/llm/v1/chat/completions", json=CHAT)).status_code == 200


@pytest.mark.parametrize(
    ("content", "status", "code", "param", "message"),
    [
        (b"", 400, "invalid_json", None, "the body is empty"),
        (b'{"model": "m", nope}', 400, "invalid_json", None, "byte 15"),
        (b'{"model": "m"', 400, "invalid_json", None, "truncated"),
        (b"[1]", 400, "invalid_body", None, "must be a JSON object"),
        (b'{"model": 7}', 400, "invalid_type", "model", "'model' must be a string"),
        (b"{}", 400, "missing_model", "model", "there are: 'org/sim', 'plain'"),
        (b'{"model": "org/simm"}', 404, "model_not_found", "model", "did you mean 'org/sim'?"),
        (b'{"model": "org/sim", "messages": 5}', 400, None, None, ""),
    ],
)
async def test_wrong_requests_are_told_what_is_wrong(
    content: bytes, status: int, code: str | None, param: str | None, message: str
) -> None:
    async with front() as client:
        response = await client.post("/v1/chat/completions", content=content)
        error = error_of(response)
        assert response.status_code == status and message in error["message"]
        assert error["type"] == "invalid_request_error"
        if code is not None:
            assert (error["code"], error["param"]) == (code, param)


async def test_the_model_may_go_unnamed_where_there_is_one_and_the_api_is_vllms() -> None:
    async with client_of(create_front({MODEL: await backend()})) as client:
        assert (await client.post("/tokenize", json={"prompt": "a b"})).status_code == 200
        assert (await client.post("/v1/completions", json={"prompt": "a b"})).status_code == 400
    async with front() as client:
        assert (await client.post("/tokenize", json={"prompt": "a b"})).status_code == 400


async def test_paths_and_methods_that_are_not_there() -> None:
    async with front() as client:
        unknown = await client.post("/v1/chat/completion", json=CHAT)
        assert unknown.status_code == 404 and "did you mean '/v1/chat/completions'?" in error_of(unknown)["message"]
        wrong = await client.get("/v1/chat/completions")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
        assert (await client.delete("/v1/models")).status_code == 405
        unsupported = await client.post("/v1/rerank", json={"model": MODEL})
        assert unsupported.status_code == 404
        assert "(engine 'simulated') does not answer /v1/rerank" in error_of(unsupported)["message"]


async def test_bodies_beyond_the_limit_are_refused_however_they_come() -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        for _ in range(20):
            yield b" " * 100

    async with front(max_body_bytes=1000) as client:
        for content in (b" " * 1001, chunks()):
            response = await client.post("/v1/chat/completions", content=content)
            assert response.status_code == 413
            assert error_of(response)["code"] == "request_too_large"
        whole = json.dumps(CHAT).encode()
        assert (await client.post("/v1/chat/completions", content=whole.ljust(1000))).status_code == 200


async def test_errors_of_messages_have_anthropics_shape() -> None:
    async with front() as client:
        response = await client.post("/v1/messages", json={"model": "nope"}, headers={"x-request-id": "r1"})
        assert response.status_code == 404
        assert response.json() == {
            "type": "error",
            "error": {
                "type": "not_found_error",
                "message": "the model 'nope' does not exist; there are: 'org/sim', 'plain'",
            },
            "request_id": "r1",
        }


def failing(error: Exception, after: int | None = None) -> LocalBackend:
    """A backend that raises `error`, at once or after so many pieces."""

    async def answer(request: EngineRequest) -> EngineResponse:
        if after is None:
            raise error

        async def pieces() -> AsyncGenerator[bytes, None]:
            for _ in range(after):
                yield b"data: {}\n\n"
            raise error

        return EngineResponse(200, pieces(), "text/event-stream")

    async def check_health() -> None:
        raise error

    paths = frozenset(("/v1/chat/completions", "/v1/messages", "/v1/responses"))
    return LocalBackend(answer, check_health, ModelInfo("m", 10, paths, None, "failing"))


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (BackPressureError(5, 5, 429, 2.5), 429, "overloaded", "3"),
        (BackPressureError(5, 5), 503, "overloaded", "1"),
        (ReplicaUnavailableError("gone"), 503, "replica_lost", "1"),
        (RequestTimeoutError("late"), 408, "timeout", None),
        (KeyError("secret detail"), 500, "internal_error", None),
    ],
)
async def test_what_goes_wrong_behind_has_its_status(
    error: Exception, status: int, code: str, retry_after: str | None
) -> None:
    async with client_of(create_front({"m": failing(error)})) as client:
        response = await client.post("/v1/chat/completions", json={"model": "m"})
        assert response.status_code == status
        assert error_of(response)["code"] == code
        assert response.headers.get("retry-after") == retry_after
        assert "secret" not in response.text


async def test_a_stream_that_fails_before_it_begins_has_a_status() -> None:
    async with client_of(create_front({"m": failing(ReplicaUnavailableError("gone"), after=0)})) as client:
        response = await client.post("/v1/chat/completions", json={"model": "m", "stream": True})
        assert response.status_code == 503 and error_of(response)["code"] == "replica_lost"


@pytest.mark.parametrize(
    ("path", "last"),
    [
        (
            "/v1/chat/completions",
            'data: {"error":{"message":"the replica that worked on this request is gone; send the request again",'
            '"type":"service_unavailable_error","param":null,"code":"replica_lost"}}\n\ndata: [DONE]\n\n',
        ),
        (
            "/v1/messages",
            'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"the replica that worked '
            'on this request is gone; send the request again"},"request_id":"r"}\n\n',
        ),
        (
            "/v1/responses",
            'event: error\ndata: {"type":"error","code":"replica_lost","message":"the replica that worked on this '
            'request is gone; send the request again","param":null}\n\n',
        ),
    ],
)
async def test_what_goes_wrong_in_a_stream_is_its_last_event(path: str, last: str) -> None:
    async with client_of(create_front({"m": failing(ReplicaUnavailableError("gone"), after=2)})) as client:
        response = await client.post(path, json={"model": "m", "stream": True}, headers={"x-request-id": "r"})
        assert response.status_code == 200
        assert response.text == "data: {}\n\n" * 2 + last


async def test_health_is_true_only_when_every_model_can_answer() -> None:
    good = await backend()
    async with client_of(create_front({MODEL: good})) as client:
        assert (await client.get("/health")).json() == {"status": "ok", "models": [MODEL]}
    async with client_of(create_front({MODEL: good, "m": failing(RuntimeError("no memory"))})) as client:
        response = await client.get("/health")
        assert response.status_code == 503 and error_of(response)["message"] == "not ready: m: no memory"
    async with client_of(create_front({})) as client:
        assert (await client.get("/health")).status_code == 503


async def test_models_may_come_and_go() -> None:
    backends: dict[str, Any] = {}
    async with client_of(create_front(backends)) as client:
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 404
        backends[MODEL] = await backend()
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200


async def test_mounted_applications_get_their_paths_behind_the_key() -> None:
    async def files(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    async with front(mounts={"/v1/files": files}) as client:
        assert (await client.get("/v1/files")).text == "/v1/files"
        assert (await client.get("/v1/files/f1/content")).text == "/v1/files/f1/content"
        assert (await client.get("/v1/filesystem")).status_code == 404


async def test_a_client_that_leaves_under_another_server_ends_the_generation() -> None:
    slow = await backend(time_to_first_token_s=600)
    begun = asyncio.Event()
    ended: list[str] = []

    async def answer(request: EngineRequest) -> EngineResponse:
        begun.set()
        try:
            return await slow.respond(request, Affinity())
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    assert slow.info is not None
    app = create_front({MODEL: LocalBackend(answer, slow.check_health, slow.info)})
    body = json.dumps(CHAT).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await begun.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
    await asyncio.wait_for(app(scope, receive, send), 10)
    assert ended == ["cancelled"]
