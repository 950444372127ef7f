"""`headrace llm chat` on a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from tests.cli.command import Command, Place, fetch, place, until
from tests.cli.terminal import Terminal, terminal

PROMPT = "› "
SLOW = ("--time-per-output-token-s", "0.05", "--answer-tokens", "4000")
"""Left alone, an answer takes minutes."""


@pytest.fixture(scope="module")
def here() -> Iterator[Place]:
    with place() as folder:
        yield folder


@pytest.fixture(scope="module")
def server(here: Place) -> Iterator[Command]:
    command = here.begin("llm", "serve", "pretend", "--engine", "simulated", "--port", "0", *SLOW)
    command.says("Serving. Press Ctrl-C to stop.")
    yield command
    assert command.interrupt() == 0


@pytest.fixture(scope="module")
def url(server: Command) -> str:
    found = re.search(r"--url (\S+)", server.output)
    assert found is not None
    return found[1]


@pytest.fixture
def chat(here: Place, url: str) -> Iterator[Terminal]:
    with terminal(here, "llm", "chat", "--url", url) as chat:
        chat.says("pretend", url, PROMPT)
        yield chat


def running(url: str) -> float:
    """Requests that the engine is generating for."""
    found = re.findall(r"^ray_serve_llm_requests_running\{.*\} (\S+)$", fetch(f"{url}/-/metrics"), re.MULTILINE)
    return sum(map(float, found))


def test_ctrl_c_stops_the_answer_at_the_server_and_the_conversation_goes_on(chat: Terminal, url: str) -> None:
    chat.types("Hello\r")
    until(lambda: running(url) == 1)
    chat.says(" ", " ", " ", " ")
    chat.types("\x03")
    chat.says("stopped", PROMPT)
    until(lambda: running(url) == 0)
    chat.types("again\r")
    until(lambda: running(url) == 1)
    chat.types("\x03")
    chat.says("stopped", PROMPT)
    chat.types("\x04")
    assert chat.ends() == 0


def test_an_answer_is_shown_while_it_comes(chat: Terminal, url: str) -> None:
    chat.types("Hello\r")
    chat.says("\n", " ", " ", " ", " ")
    assert running(url) == 1
    chat.types("\x03")
    chat.says(PROMPT)
    chat.types("/exit\r")
    assert chat.ends() == 0


def test_clear_begins_anew_and_what_is_no_command_is_explained(chat: Terminal) -> None:
    chat.types("/clear\r")
    chat.says("a new conversation", PROMPT)
    chat.types("/claer\r")
    chat.says("/clear begins anew", PROMPT)
    chat.types("half typed\x03")
    chat.says("Ctrl-C stops an answer", PROMPT)
    chat.types("\x04")
    assert chat.ends() == 0


def test_what_was_typed_comes_back_with_the_arrow(chat: Terminal) -> None:
    chat.types("/clear\r")
    chat.says("a new conversation", PROMPT)
    chat.types("\x1b[A")
    chat.says("/clear")
    chat.types("\r")
    chat.says("a new conversation")


def test_a_backslash_or_a_paste_makes_several_lines_one_question(chat: Terminal, url: str) -> None:
    for typed in ("first\\\rsecond\r", "\x1b[200~first\nsecond\x1b[201~\r"):
        chat.types(typed)
        until(lambda: running(url) == 1)
        chat.types("\x03")
        chat.says("stopped", PROMPT)
    chat.types("\x04")
    assert chat.ends() == 0


def test_the_bar_of_a_server_that_starts_tells_stage_and_percent(here: Place) -> None:
    arguments = ("llm", "serve", "big", "--engine", "simulated", "--port", "0", "--loading-s", "3")
    # Another folder for the instance: the module's server has the first.
    with place() as other, terminal(other, *arguments) as serving:
        serving.says("big", "loading nothing", "%", "Serving. Press Ctrl-C to stop.")
        serving.types("\x03")
        serving.says("Stopped.")
        assert serving.ends() == 0
