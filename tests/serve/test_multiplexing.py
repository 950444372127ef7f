"""Models that are loaded on demand, by real replicas, and the routing that knows who holds which."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

import headrace as serve
from headrace import client as driver
from headrace.exceptions import ConfigError

from .conditions import lines, until


def make_zoo(notes: Path, **options: Any) -> Any:
    """A deployment of which every replica notes in a file what it loads and unloads."""

    def note(text: str) -> None:
        with notes.open("a") as file:
            file.write(f"{text}\n")

    class Model:
        def __init__(self, name: str) -> None:
            self.name = name

        def __del__(self) -> None:
            note(f"unloaded {self.name}")

    @serve.deployment(max_ongoing_requests=100)
    class Zoo:
        @serve.multiplexed(max_num_models_per_replica=2)
        async def load(self, model_id: str) -> Any:
            note(f"loading {model_id}")
            if model_id == "missing":
                raise LookupError(f"no model {model_id}")
            while (notes.parent / f"hold-{model_id}").exists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            return Model(model_id)

        async def __call__(self) -> dict[str, Any]:
            model = await self.load(serve.get_multiplexed_model_id())
            return {"model": model.name, "pid": os.getpid()}

        async def pid(self) -> int:
            return os.getpid()

    return Zoo.options(**options)


def ask(http: httpx.Client, model_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = http.get("/", headers={"serve_multiplexed_model_id": model_id}).json()
    return answer


def test_the_least_recently_used_model_makes_room(http: httpx.Client, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    serve.run(make_zoo(notes).bind())
    for model_id in ("a", "b", "a", "c", "a"):
        assert ask(http, model_id)["model"] == model_id
    assert lines(notes) == ["loading a", "loading b", "unloaded b", "loading c"]
    serve.delete("default")
    assert sorted(lines(notes)[4:]) == ["unloaded a", "unloaded c"]


def test_a_model_that_cannot_be_loaded_fails_its_request_and_is_tried_again(http: httpx.Client, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    serve.run(make_zoo(notes).bind())
    for _ in range(2):
        assert http.get("/", headers={"serve_multiplexed_model_id": "missing"}).status_code == 500
    assert lines(notes) == ["loading missing"] * 2
    assert http.get("/").status_code == 500
    assert ask(http, "a")["model"] == "a"


def test_concurrent_requests_for_one_model_load_it_once(
    http: httpx.Client, instance: driver.Client, tmp_path: Path
) -> None:
    notes, hold = tmp_path / "notes", tmp_path / "hold-slow"
    hold.touch()
    serve.run(make_zoo(notes, num_replicas=3).bind())

    async def many() -> list[Any]:
        headers = {"serve_multiplexed_model_id": "slow"}
        async with httpx.AsyncClient(base_url=instance.http_url or "", headers=headers, timeout=30) as client:
            waiting = [asyncio.create_task(client.get("/")) for _ in range(20)]
            await asyncio.to_thread(until, lambda: lines(notes))
            # Another caller, whose router has not sent any of these: it hears of the load from the controller.
            await asyncio.to_thread(until, lambda: known_to_driver("slow"))
            handle = serve.get_app_handle("default").options(multiplexed_model_id="slow")
            others = [handle.remote() for _ in range(5)]
            hold.unlink()
            return [answer.json() for answer in await asyncio.gather(*waiting)] + await asyncio.gather(*others)

    serve.get_app_handle("default").options(multiplexed_model_id="warm").remote().result()
    answers = asyncio.run(many())
    assert {answer["model"] for answer in answers} == {"slow"}
    assert Counter(lines(notes))["loading slow"] == 1
    assert len({answer["pid"] for answer in answers}) == 1


def known_to_driver(model_id: str) -> bool:
    """Whether this process's router to the deployment knows of a replica that holds the model."""
    router = driver.find().hub.router("default", "Zoo")
    return any(model_id in link.model_ids for link in router._links.values())


def test_requests_go_to_the_replica_that_holds_their_model(http: httpx.Client, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    handle = serve.run(make_zoo(notes, num_replicas=3).bind())
    seen: set[int] = set()
    until(lambda: seen.add(handle.pid.remote().result()) or len(seen) == 3)  # its router has met all replicas
    models = [f"m{i}" for i in range(6)]  # as many as there are places
    for _ in range(5):
        for model_id in models:
            assert handle.options(multiplexed_model_id=model_id).remote().result()["model"] == model_id
    assert sorted(lines(notes)) == [f"loading {model_id}" for model_id in models]


def test_any_replica_takes_over_when_the_holder_dies(http: httpx.Client, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    serve.run(make_zoo(notes, num_replicas=2).bind())
    holder = ask(http, "a")["pid"]
    assert ask(http, "a")["pid"] == holder
    os.kill(holder, 9)
    assert ask(http, "a")["pid"] != holder


def test_a_handle_names_the_model_and_passes_it_on_only_if_told_to(http: httpx.Client, tmp_path: Path) -> None:
    notes = tmp_path / "notes"

    @serve.deployment
    class Front:
        def __init__(self, zoo: Any) -> None:
            self.zoo = zoo

        async def __call__(self) -> str:
            model_id = serve.get_multiplexed_model_id()
            answer = await self.zoo.options(multiplexed_model_id=model_id).remote()
            return str(answer["model"])

        async def bare(self) -> str:
            return str(await self.zoo.remote())

    handle = serve.run(Front.bind(make_zoo(notes).bind()))
    assert http.get("/", headers={"serve_multiplexed_model_id": "a"}).text == "a"
    assert handle.options(multiplexed_model_id="b").remote().result() == "b"
    with pytest.raises(ConfigError, match="multiplexed_model_id"):  # as in Ray Serve
        handle.options(multiplexed_model_id="c").bare.remote().result()
