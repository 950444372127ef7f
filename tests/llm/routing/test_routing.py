"""Routing between replicas of a model, over HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.llm.api.applications import behind_front, model
from tests.llm.api.conftest import MODEL
from tests.serve.conditions import lines

Run = Callable[[Any], str]

RAYS_NAME = "ray.serve.llm.request_router:PrefixCacheAffinityRouter"
OURS = "headrace.llm.routing:SessionAffinity"


def routed_by(router: str, notes: Path) -> Any:
    options = {"num_replicas": 2, "request_router_config": {"request_router_class": router}}
    return behind_front(model(notes, options))


def homes(notes: Path) -> dict[str, set[str]]:
    """Which replicas got the requests of each conversation: they are called "<conversation>-<turn>"."""
    found: dict[str, set[str]] = {}
    for line in lines(notes):
        request_id, replica = line.split()
        found.setdefault(request_id.partition("-")[0], set()).add(replica)
    return found


@pytest.mark.parametrize("router", [RAYS_NAME, "headrace.llm.routing:PrefixAffinity"])
def test_every_turn_of_a_conversation_goes_to_the_replica_that_had_the_turns_before(
    run: Run, tmp_path: Path, router: str
) -> None:
    notes = tmp_path / "notes"
    url = run(routed_by(router, notes))
    conversations: dict[str, list[dict[str, str]]] = {
        f"c{user}": [{"role": "system", "content": f"You help user {user} to write. " * 20}] for user in range(8)
    }
    with httpx.Client(timeout=30) as client:
        for turn in range(4):
            for name, messages in conversations.items():
                messages.append({"role": "user", "content": f"I am {name}, and this is my turn {turn}. " * 20})
                answer = client.post(
                    f"{url}/v1/chat/completions",
                    json={"model": MODEL, "messages": messages},
                    headers={"x-request-id": f"{name}-{turn}"},
                )
                messages.append(answer.json()["choices"][0]["message"])
    found = homes(notes)
    assert all(len(replicas) == 1 for replicas in found.values())
    counts = Counter(replica for replicas in found.values() for replica in replicas)
    assert len(counts) == 2


@pytest.mark.parametrize(("header", "field"), [("x-session-id", ""), ("", "user"), ("", "prompt_cache_key")], ids=str)
def test_a_session_stays_at_its_replica(run: Run, tmp_path: Path, header: str, field: str) -> None:
    notes = tmp_path / "notes"
    url = run(routed_by(OURS, notes))
    with httpx.Client(timeout=30) as client:
        for turn in range(4):
            for user in range(12):
                client.post(
                    f"{url}/v1/completions",
                    json={"model": MODEL, "prompt": f"{turn}", **({field: f"u{user}"} if field else {})},
                    headers={"x-request-id": f"u{user}-{turn}", **({header: f"u{user}"} if header else {})},
                ).raise_for_status()
    found = homes(notes)
    assert len(found) == 12 and all(len(replicas) == 1 for replicas in found.values())
    assert len({replica for replicas in found.values() for replica in replicas}) == 2
