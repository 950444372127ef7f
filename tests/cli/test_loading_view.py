"""What people see while models load."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from headrace.cli.llm.loading_view import Loading, LoadingView


@pytest.mark.parametrize(
    ("message", "loading"),
    [
        ("", Loading("starting")),
        ("0 of 1 replica running.", Loading("starting")),
        (
            "0 of 2 replicas running. Replica llm#LLMServer:m#ab12c: loading weights 40%, 1.20 GiB (5 s).",
            Loading("loading weights", 40, "1.20 GiB"),
        ),
        ("Replica a#b#c: warming up (12 s). Waiting for resources: x", Loading("warming up")),
        ("Replica a#b#c: downloading 7% (1 s).", Loading("downloading", 7)),
    ],
)
def test_stage_percent_and_memory_are_read_from_the_message(message: str, loading: Loading) -> None:
    assert Loading.read(message) == loading


def application(message: str, running: int) -> dict[str, object]:
    def deployment(name: str, running: int, message: str = "") -> dict[str, object]:
        replicas = [{"state": "RUNNING"}] * running
        return {"name": name, "message": message, "target_num_replicas": 1, "replicas": replicas}

    names = {"LLMServer:m": deployment("LLMServer:m", running, message), "LLMIngress": deployment("LLMIngress", 1)}
    return {"deployments": names}


def test_a_log_has_a_line_per_stage() -> None:
    written = io.StringIO()
    with LoadingView(Console(file=written, width=200)) as view:
        for percent in range(0, 101, 10):
            view.show(application(f"Replica a#b#c: loading weights {percent}%, 1.00 GiB (1 s).", 0))
        view.show(application("Replica a#b#c: warming up (2 s).", 0))
        view.show(application("", 1))
    assert written.getvalue().splitlines() == [
        "m: loading weights 0%, 1.00 GiB",
        "the API: ready",
        "m: warming up",
        "m: ready",
    ]


def test_a_terminal_has_a_bar_with_the_stage_and_the_memory() -> None:
    written = io.StringIO()
    console = Console(file=written, width=200, force_terminal=True, color_system=None)
    with LoadingView(console) as view:
        view.show(application("Replica a#b#c: loading weights 40%, 1.20 GiB (5 s).", 0))
        view._progress.refresh()
        assert "m       loading weights" in written.getvalue()
        assert " 40%   1.20 GiB" in written.getvalue()
        view.show(application("Replica a#b#c: warming up (6 s).", 0))
        view._progress.refresh()
        assert "1.20 GiB" in written.getvalue().rpartition("warming up")[2]
