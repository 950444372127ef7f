"""Logs over the REST API: whose are shown, in which order, and that nothing else can be read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.controller import rest_logs
from headrace.engine.process import NodeInfo
from headrace.observe.log_files import LoggedProcess

from .test_rest import Instance, client_of

ENTRIES = "/api/headrace/logs/entries"


@pytest.fixture
async def client(instance: Instance) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(instance) as client:
        yield client


@pytest.fixture
def logs(folder: Path) -> Path:
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    one, two = (logs / f"{LoggedProcess('replica', id, 'app', 'Model').stem}.log" for id in ("aaaaa", "bbbbb"))
    for path, odd in ((one, 0), (two, 1)):
        path.write_text(
            "".join(
                f"2026-11-23T10:00:0{number}.000Z {'ERROR' if number == 3 else 'INFO'}    x r{number} /: n{number}\n"
                for number in range(8)
                if number % 2 == odd
            )
        )
    (logs / "proxy-0.log").write_text("2026-11-23T10:00:09.000Z INFO    proxy-0: listening\n")
    (logs / "headrace.log").write_text("root says\n")
    (folder / "outside.log").write_text("2026-11-23T10:00:09.000Z INFO    x: outside\n")
    return logs


def append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line)


async def asked(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    answer = await client.get(ENTRIES, params=query)
    assert answer.status_code == 200, answer.text
    first, *entries = map(json.loads, answer.text.splitlines())
    assert first == {"not_shown": []}
    return entries


async def test_entries_of_several_processes_come_in_order_of_time(logs: Path, client: httpx.AsyncClient) -> None:
    entries = await asked(client, target="app", lines=5)
    assert [entry["message"] for entry in entries] == ["n3", "n4", "n5", "n6", "n7"]
    assert entries[0].items() >= {"process": "app/Model/bbbbb", "level": "ERROR", "request_id": "r3"}.items()
    assert [entry["message"] for entry in await asked(client, lines=1)] == ["listening"]
    assert [entry["message"] for entry in await asked(client, target="root")] == ["root says"]
    assert [entry["message"] for entry in await asked(client, target="proxy")] == ["listening"]
    assert [entry["message"] for entry in await asked(client, target="app/Model/aaa", lines=1)] == ["n6"]
    assert [entry["message"] for entry in await asked(client, level="error")] == ["n3"]
    assert [entry["message"] for entry in await asked(client, grep="R5")] == ["n5"]
    assert await asked(client, since_s=60, target="app") == []


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ({"target": "ap"}, 404, "there is no log of 'ap'; did you mean 'app'?"),
        ({"target": "app/Modle"}, 404, "did you mean 'app/Model'?"),
        ({"target": "zzzzzzzzzz"}, 404, "there are app, app/Model, proxy"),
        ({"target": "../outside"}, 404, "no log of"),
        ({"target": "../../etc/passwd"}, 404, "no log of"),
        ({"target": "/etc/passwd\x00"}, 404, "no log of"),
        ({"lines": "many"}, 400, "lines: must be a number of lines, 0 or more, not 'many'"),
        ({"lines": "-1"}, 400, "lines: must be"),
        ({"lines": "20000"}, 400, "lines: must be at most 10000"),
        ({"since_s": "nan"}, 400, "since_s: must be a number of seconds"),
        ({"level": "loud"}, 400, "level: must be one of DEBUG"),
        ({"follow": "perhaps"}, 400, "follow: must be true or false"),
        ({"line": "3"}, 400, "line: unknown; did you mean 'lines'?"),
    ],
)
async def test_what_cannot_be_answered_is_refused_with_the_reason(
    logs: Path, client: httpx.AsyncClient, query: dict[str, str], status: int, text: str
) -> None:
    answer = await client.get(ENTRIES, params=query)
    assert answer.status_code == status and text in answer.json()["error"]


async def test_without_the_token_no_log_is_shown(logs: Path, instance: Instance) -> None:
    async with client_of(instance, token="t0ken") as client:
        for path in (rest_logs.PATH, ENTRIES):
            assert (await client.get(path)).status_code == 401
            assert (await client.get(path, headers={"authorization": "Bearer t0ken"})).status_code == 200


async def test_what_logs_there_are(logs: Path, client: httpx.AsyncClient) -> None:
    found = (await client.get(rest_logs.PATH)).json()["logs"]
    assert [log["process"] for log in found] == ["app/Model/aaaaa", "app/Model/bbbbb", "proxy-0", "root"]
    assert found[0]["bytes"] > 0 and not found[0]["alive"]


async def test_machines_whose_logs_are_not_there_are_named(
    logs: Path, instance: Instance, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nodes() -> list[NodeInfo]:
        gone = NodeInfo(node="gone", host="10.0.0.3", alive=False)
        return [NodeInfo(node="", host="127.0.0.1"), NodeInfo(node="gpu-1", host="10.0.0.2"), gone]

    monkeypatch.setattr(instance.engine, "nodes", nodes)
    for path in (rest_logs.PATH, ENTRIES):
        answer = await client.get(path)
        assert json.loads(answer.text.splitlines()[0])["not_shown"] == ["gpu-1 (10.0.0.2)"]
    answer = await client.get(ENTRIES, params={"target": "app/Model/zzzzz"})
    assert "logs of gpu-1 (10.0.0.2) are not shown here" in answer.json()["error"]


async def test_following_tells_everything_once_also_of_processes_that_come(
    logs: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest_logs, "_LOOK_EVERY_S", 0.01)
    api = rest_logs.LogsApi(instance.controller)
    answer = api._answer(rest_logs.Question(target="app", lines=1, follow=True))

    async def following() -> str:
        while True:
            line = json.loads(await anext(answer) or b"{}")
            if "message" in line:
                return str(line["message"])

    async with asyncio.timeout(30):
        assert await following() == "n7"
        line = "2026-11-23T10:01:00.000Z INFO    x: {}\n"
        append(logs / "app#Model#aaaaa.log", line.format("old one"))
        assert await following() == "old one"
        (logs / "app#Model#ccccc.log").write_text(line.format("new one"))
        (logs / "other#Model#ccccc.log").write_text(line.format("of another"))
        assert await following() == "new one"
        (logs / "app#Model#bbbbb.log").unlink()
        append(logs / "app#Model#ccccc.log", line.format("last"))
        assert await following() == "last"
    await answer.aclose()  # type: ignore[attr-defined]
    assert api._followers == 0
