"""`/v1/files` and `/v1/batches`, for real: over HTTP, across a killed process, behind live requests."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serve.conditions import deployment, until

import headrace as serve
from headrace.llm import LLMConfig, build_openai_app

ENDED = ("completed", "failed", "cancelled", "expired")


def line(number: int, model: str = "m", **fields: Any) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": f"question {number}"}], "max_tokens": 3, **fields}
    return {"custom_id": f"request-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def run_app(folder: Path, concurrency: int = 8, **engine_kwargs: Any) -> None:
    config = LLMConfig(model="m", llm_engine="simulated", engine_kwargs=engine_kwargs)
    serve.run(
        build_openai_app({"llm_configs": [config], "batch_config": {"folder": str(folder), "concurrency": concurrency}})
    )


def upload(http: httpx.Client, lines: list[dict[str, Any]]) -> str:
    content = "\n".join(json.dumps(line) for line in lines).encode()
    answer = http.post("/v1/files", files={"file": ("in.jsonl", content)}, data={"purpose": "batch"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def begin(http: httpx.Client, file_id: str) -> str:
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    answer = http.post("/v1/batches", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def ended(http: httpx.Client, batch_id: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def has_ended() -> bool:
        seen.update(http.get(f"/v1/batches/{batch_id}").json())
        return seen["status"] in ENDED

    until(has_ended, 60)
    return seen


def lines_of(http: httpx.Client, file_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in http.get(f"/v1/files/{file_id}/content").text.splitlines()]


def test_a_batch_is_worked_off_and_what_failed_is_told_apart(http: httpx.Client, tmp_path: Path) -> None:
    run_app(tmp_path)
    batch = ended(http, begin(http, upload(http, [*(line(i) for i in range(30)), line(30, model="other")])))
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 31, "completed": 30, "failed": 1}
    good = lines_of(http, batch["output_file_id"])
    assert {one["custom_id"] for one in good} == {f"request-{i}" for i in range(30)}
    assert all(one["response"]["body"]["usage"]["completion_tokens"] == 3 for one in good)
    (bad,) = lines_of(http, batch["error_file_id"])
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("request-30", 404)


def test_a_wrong_line_fails_the_batch_before_anything_is_sent(http: httpx.Client, tmp_path: Path) -> None:
    run_app(tmp_path)
    batch = ended(http, begin(http, upload(http, [line(0), {**line(1), "url": "/v1/embeddings"}])))
    assert batch["status"] == "failed"
    (problem,) = batch["errors"]["data"]
    assert problem["line"] == 2
    assert "must be the batch's endpoint '/v1/chat/completions'" in problem["message"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input_file_id": "file-none", "endpoint": "/v1/chat/completions"}, 404, "input_file_id"),
        ({"input_file_id": "file-none", "endpoint": "/v1/chat"}, 400, "endpoint"),
        ({"endpoint": "/v1/chat/completions"}, 400, None),
    ],
)
def test_a_wrong_batch_is_refused(
    http: httpx.Client, tmp_path: Path, body: dict[str, Any], status: int, param: str | None
) -> None:
    run_app(tmp_path)
    answer = http.post("/v1/batches", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param


def test_files_can_be_listed_and_deleted(http: httpx.Client, tmp_path: Path) -> None:
    run_app(tmp_path)
    first, second = upload(http, [line(0)]), upload(http, [line(1)])
    page = http.get("/v1/files", params={"limit": 1}).json()
    assert [file["id"] for file in page["data"]] == [second]
    assert page["has_more"]
    rest = http.get("/v1/files", params={"after": second}).json()
    assert [file["id"] for file in rest["data"]] == [first]
    assert http.delete(f"/v1/files/{first}").json() == {"id": first, "object": "file", "deleted": True}
    assert http.get(f"/v1/files/{first}").status_code == 404


def test_a_batch_goes_on_where_its_process_was_killed(http: httpx.Client, tmp_path: Path) -> None:
    run_app(tmp_path, concurrency=2, time_to_first_token_s=0.02)
    batch_id = begin(http, upload(http, [line(i) for i in range(100)]))
    until(lambda: http.get(f"/v1/batches/{batch_id}").json()["request_counts"]["completed"] >= 10, 30)
    (replica,) = deployment("BatchService").replicas
    os.kill(replica.pid, signal.SIGKILL)

    batch = ended(http, batch_id)
    assert batch["status"] == "completed"
    answered = [one["custom_id"] for one in lines_of(http, batch["output_file_id"])]
    assert sorted(answered) == sorted(f"request-{i}" for i in range(100))


def test_a_batch_can_be_cancelled_and_keeps_what_is_answered(http: httpx.Client, tmp_path: Path) -> None:
    run_app(tmp_path, concurrency=1, time_to_first_token_s=0.05)
    batch_id = begin(http, upload(http, [line(i) for i in range(200)]))
    until(lambda: http.get(f"/v1/batches/{batch_id}").json()["request_counts"]["completed"] >= 2, 30)
    http.post(f"/v1/batches/{batch_id}/cancel")
    batch = ended(http, batch_id)
    assert batch["status"] == "cancelled"
    assert 2 <= len(lines_of(http, batch["output_file_id"])) < 200


def test_a_live_request_overtakes_a_batch_that_would_fill_the_engine(http: httpx.Client, tmp_path: Path) -> None:
    run_app(tmp_path, concurrency=64, max_num_seqs=4, time_to_first_token_s=0.2)
    batch_id = begin(http, upload(http, [line(i) for i in range(200)]))
    until(lambda: http.get(f"/v1/batches/{batch_id}").json()["request_counts"]["completed"] >= 3, 30)
    assert http.post("/v1/chat/completions", json=line(0)["body"]).status_code == 200
    counts = http.get(f"/v1/batches/{batch_id}").json()["request_counts"]
    # Behind all of the batch it would have waited for 200 / 4 turns.
    assert counts["completed"] < 100
    http.post(f"/v1/batches/{batch_id}/cancel")
    ended(http, batch_id)
