"""The pods of a RayService, by the scripts of the manifest: what probes see of them, and when they end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from headrace.engine.session import Session

from .heads import TOKEN, RayHead, RayWorker, short_folder, until

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]

PARTS = ("/api/gcs_healthz", "/api/local_raylet_healthz", "/api/healthz")


@pytest.fixture
def head() -> Iterator[RayHead]:
    pytest.importorskip("ray")
    folder = short_folder()
    try:
        with RayHead(folder) as started:
            yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def asked(url: str) -> tuple[int, str]:
    """As a probe asks: without a token. Nobody there, or no answer within 3 s, is a failed probe as well."""
    try:
        answer = httpx.get(url, timeout=3.0, trust_env=False)
    except httpx.TransportError as error:
        return 0, str(error)
    return answer.status_code, answer.text


def process(head: RayHead, part: str) -> psutil.Process:
    (found,) = (each for each in head.processes() if each.name() == part)
    return found


def test_probes_hear_of_rays_health_from_ray_itself_and_from_headrace(head: RayHead) -> None:
    assert [asked(head.dashboard_url + path) for path in PARTS] == [
        (200, "success"),
        (200, "success"),
        (200, "raylet: success\ngcs: success"),
    ]
    assert until(lambda: asked(f"{head.agent_url}/api/healthz")[0] == 200, "the agent")
    assert asked(f"{head.proxy_url}/-/healthz")[0] == 200
    process(head, "gcs_server").suspend()
    status, text = until(lambda: found if (found := asked(head.dashboard_url + PARTS[0]))[0] != 200 else None, "503")
    assert status == 503
    assert "the GCS does not answer" in text or "no answer within" in text
    assert asked(head.dashboard_url + PARTS[2])[0] == 503
    process(head, "gcs_server").resume()
    until(lambda: asked(head.dashboard_url + PARTS[0]) == (200, "success"), "its recovery")


def test_the_pod_ends_where_headrace_cannot_start(head: RayHead) -> None:
    """Kubernetes starts it again then, and its log says why; a head that serves nothing would stay so for ever."""
    head.end()
    head.broken = True
    head.begin(wait=False)
    until(lambda: head.exit_status is not None, "the end")
    assert "192.0.2.99" in head.output


def nodes(head: RayHead) -> list[dict[str, Any]]:
    """The machines that the API tells of, those that are there."""
    answer = httpx.get(
        f"{head.dashboard_url}/api/headrace/nodes",
        headers={"x-ray-authorization": f"Bearer {TOKEN}"},
        timeout=10.0,
        trust_env=False,
    )
    return [node for node in answer.json()["nodes"] if node["alive"]]


def proxy_on(node: str, sessions: Path) -> str | None:
    """Where a machine's proxies listen, by its session folder."""
    for file in sessions.glob("*/session.json"):
        session = Session.load(file.parent)
        if session.node == node and session.http is not None:
            return f"http://127.0.0.1:{session.http[1]}"
    return None


def test_a_worker_takes_requests_before_anything_runs_on_it_and_goes_when_it_is_told(head: RayHead) -> None:
    """Or it would never be ready, and with a fixed number of pods the cluster never whole."""
    with RayWorker(head) as worker:
        (joined,) = until(lambda: [node for node in nodes(head) if not node["head"]], "the worker")
        # Not the port of the manifest: both pods are this machine here.
        url = until(lambda: proxy_on(joined["node_id"], head.folder / "s"), "the proxy of the worker")
        probe = worker.container["readinessProbe"]["httpGet"]["path"]
        assert until(lambda: asked(url + probe) == (200, "success"), "the readiness of the worker")
        until(lambda: asked(f"{worker.agent_url}/api/healthz")[0] == 200, "the agent of the worker")
    until(lambda: len(nodes(head)) == 1, "the end of the worker")
    assert asked(f"{head.proxy_url}/-/healthz") == (200, "success")
