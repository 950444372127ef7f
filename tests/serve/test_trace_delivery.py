"""What becomes of spans when an instance ends, and when nobody takes them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .otlp_receiver import receiver

pytestmark = pytest.mark.local_engine("an instance of its own, which ends with its script")

REQUESTS = 20

SCRIPT = f"""
import json, sys, time, urllib.request
import headrace as serve
from headrace import client

@serve.deployment
class Model:
    def __call__(self, request):
        from opentelemetry import trace

        mine = trace.get_tracer("mine").start_span("mine")
        mine.end()
        mine.end()  # a mistake, which OpenTelemetry warns of
        return "answer"

if __name__ == "__main__":
    serve.start(http_options={{"port": 0}}, rest_options={{"port": 0}}, tracing_config=json.loads(sys.argv[1]))
    serve.run(Model.bind())
    for _ in range({REQUESTS}):
        assert urllib.request.urlopen(client.find().http_url, timeout=30).read() == b"answer"
    began = time.monotonic()
    serve.shutdown()
    print("ended after", time.monotonic() - began)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def run(script: Path, config: dict[str, Any] | None, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), json.dumps(config)]
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True, env=environment)


def seconds_to_end(ended: subprocess.CompletedProcess[str]) -> float:
    (line,) = (line for line in ended.stdout.splitlines() if line.startswith("ended after"))
    return float(line.split()[-1])


def test_no_span_is_lost_when_an_instance_ends(script: Path) -> None:
    with receiver() as collector:
        # Nothing is sent before the end.
        run(script, {"endpoint": f"{collector.url}/"}, OTEL_BSP_SCHEDULE_DELAY="600000")
        spans = [span for span in collector.spans if span.name != "wait for a replica"]
        for name in ("GET /", "Model.__call__", "mine"):
            assert sum(span.name == name for span in spans) == REQUESTS
        assert len(spans) == 3 * REQUESTS
        assert {span.resource["service.name"] for span in spans} == {"headrace"}


def test_the_environment_alone_is_enough(script: Path) -> None:
    with receiver() as collector:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "shop"}
        run(script, None, OTEL_TRACES_EXPORTER="otlp", OTEL_RESOURCE_ATTRIBUTES="team=blue", **variables)
        assert sum(span.name == "GET /" for span in collector.spans) == REQUESTS
        assert {(span.resource["service.name"], span.resource["team"]) for span in collector.spans} == {
            ("shop", "blue")
        }


def test_a_sampling_ratio_of_zero_records_nothing(script: Path) -> None:
    with receiver() as collector:
        run(script, {"endpoint": collector.url, "sampling_ratio": 0})
        assert not collector.spans


def test_spans_go_to_the_console(script: Path) -> None:
    ended = run(script, {"exporter": "console"})
    spans = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    assert sum(span["name"] == "GET /" for span in spans) == REQUESTS


PROCESSORS = """
import os
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

def processors():
    out = open(os.environ["SPANS"], "a", buffering=1)
    return [SimpleSpanProcessor(ConsoleSpanExporter(out=out, formatter=lambda span: span.name + "\\n"))]
"""


def test_spans_go_where_a_function_of_the_users_says(script: Path, tmp_path: Path) -> None:
    (tmp_path / "exporting.py").write_text(PROCESSORS)
    spans = tmp_path / "spans"
    run(script, {"exporter_import_path": "exporting:processors"}, SPANS=str(spans))
    assert spans.read_text().splitlines().count("GET /") == REQUESTS


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """Accepts connections, and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def test_without_a_collector_requests_are_answered_and_it_is_told_once(script: Path, closed_port: int) -> None:
    ended = run(script, {"endpoint": f"http://127.0.0.1:{closed_port}"}, OTEL_BSP_SCHEDULE_DELAY="20")
    told = [line for line in ended.stderr.splitlines() if "not all spans can be delivered" in line]
    assert 1 <= len(told) <= 2, ended.stderr  # the proxy and the replica
    assert "opentelemetry" not in ended.stderr and "Traceback" not in ended.stderr
    assert seconds_to_end(ended) < 5


def test_a_collector_that_never_answers_keeps_no_end_waiting(script: Path, deaf_port: int) -> None:
    ended = run(script, {"endpoint": f"http://127.0.0.1:{deaf_port}"})
    assert seconds_to_end(ended) < 15


def test_without_tracing_nothing_of_opentelemetry_is_imported() -> None:
    code = "import sys, headrace.proxy.main, headrace.replica.main, headrace.batching.batcher, headrace.handle\n"
    code += "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
