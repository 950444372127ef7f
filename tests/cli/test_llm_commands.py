"""`headrace llm …` as a user runs it, on the simulated engine."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from collections.abc import Iterator

import pytest
from tests.cli.command import Command, Place, fetch, place, until

from headrace.cli.llm.engine_arguments import engine_kwargs
from headrace.exceptions import ConfigError


@pytest.fixture(scope="module")
def here() -> Iterator[Place]:
    with place() as folder:
        yield folder


@pytest.fixture(scope="module")
def server(here: Place) -> Iterator[Command]:
    command = here.begin(
        "llm", "serve", "pretend", "--engine", "simulated", "--port", "0", "--time-to-first-token-s", "0.02"
    )
    command.says("Serving. Press Ctrl-C to stop.")
    yield command
    assert command.interrupt() == 0


def address(server: Command) -> str:
    found = re.search(r"curl (http://127\.0\.0\.1:\d+)/v1/chat/completions", server.output)
    assert found is not None, server.output
    return found[1]


def test_serve_says_what_is_served_and_gives_a_line_that_works(server: Command) -> None:
    assert "pretend on simulated: up to 32,768 tokens" in server.output
    body = re.search(r"--json '(.*)'", server.output)
    assert body is not None
    request = urllib.request.Request(
        f"{address(server)}/v1/chat/completions", body[1].encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        assert json.load(response)["model"] == "pretend"
    assert json.loads(fetch(f"{address(server)}/v1/models"))["data"][0]["id"] == "pretend"


def test_chat_prints_the_answer_of_the_only_model(here: Place, server: Command) -> None:
    answer = here.call("llm", "chat", "Hello", "--url", address(server), "--max-tokens", "3")
    assert answer.returncode == 0
    assert len(answer.stdout.split()) == 3


def test_chat_tells_what_the_server_refuses(here: Place, server: Command) -> None:
    answer = here.call("llm", "chat", "Hello", "--url", address(server), "--model", "pretended")
    assert answer.returncode == 1
    assert "the server answered 404: the model 'pretended' does not exist" in answer.stdout


def test_chat_tells_that_nobody_answers(here: Place) -> None:
    answer = here.call("llm", "chat", "Hello", "--url", "http://127.0.0.1:9")
    assert answer.returncode == 1
    assert "no server answers at http://127.0.0.1:9" in answer.stdout


def test_a_key_that_was_made_is_the_one_that_opens(here: Place) -> None:
    made = here.call("llm", "key").stdout
    key, hashed = (re.search(rf"{name}: *(\S+)", made)[1] for name in ("key", "hash"))  # type: ignore[index]
    server = here.begin("llm", "serve", "pretend", "--engine", "simulated", "--port", "0", "--api-key", hashed)
    server.says("Serving. Press Ctrl-C to stop.")
    try:
        assert '-H "Authorization: Bearer $HEADRACE_API_KEY"' in server.output
        refused = here.call("llm", "chat", "Hello", "--url", address(server))
        assert refused.returncode == 1 and "an API key is needed" in refused.stdout
        answer = here.call("llm", "chat", "Hello", "--url", address(server), "--api-key", key, "--max-tokens", "3")
        assert answer.returncode == 0 and len(answer.stdout.split()) == 3
    finally:
        assert server.interrupt() == 0
    assert key not in server.output


def test_keys_come_from_the_environment_and_needless_options_of_vllm_are_told(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret-of-vllm")
    server = here.begin(
        "llm", "serve", "pretend", "--engine", "simulated", "--port", "0", "--uvicorn-log-level", "info"
    )
    try:
        server.says("Serving. Press Ctrl-C to stop.")
        assert "--uvicorn-log-level is not needed" in server.output
        assert "pretend: ready" in server.output
        assert "is warm after" not in server.output
        assert here.call("llm", "chat", "Hello", "--url", address(server)).returncode == 1
        answer = here.call("llm", "chat", "Hello", "--url", address(server), "--api-key", "secret-of-vllm")
        assert answer.returncode == 0
    finally:
        assert server.interrupt() == 0


def test_the_model_comes_before_options_of_the_engine(here: Place) -> None:
    ended = here.call("llm", "serve", "--max-num-seqs", "4", "pretend", "--engine", "simulated")
    assert ended.returncode == 1
    assert "MODEL comes first" in ended.stdout


def write_requests(here: Place, name: str, count: int, model: str = "pretend") -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    lines = ({"custom_id": str(i), "url": "/v1/chat/completions", "body": body} for i in range(count))
    here.write(name, "".join(json.dumps(line) + "\n" for line in lines))


def answered(here: Place, name: str) -> list[str]:
    path = here.folder / name
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()] if path.exists() else []


def test_a_batch_that_was_killed_goes_on_and_answers_each_request_once(here: Place, server: Command) -> None:
    write_requests(here, "in.jsonl", 200)
    arguments = ("llm", "batch", "in.jsonl", "out.jsonl", "--url", address(server))
    first = here.begin(*arguments, "--concurrency", "2")
    until(lambda: len(answered(here, "out.jsonl")) >= 10)
    first.interrupt(signal.SIGKILL)
    assert len(answered(here, "out.jsonl")) < 200

    second = here.call(*arguments)
    assert second.returncode == 0, second.stdout
    assert "requests are answered already; going on with the rest" in second.stdout
    assert sorted(answered(here, "out.jsonl"), key=int) == [str(i) for i in range(200)]


def test_a_batch_with_a_wrong_request_ends_with_status_1(here: Place, server: Command) -> None:
    write_requests(here, "wrong.jsonl", 2, model="other")
    ended = here.call("llm", "batch", "wrong.jsonl", "wrong-out.jsonl", "--url", address(server))
    assert ended.returncode == 1
    assert "0 answered, 2 failed; see wrong-out.jsonl" in ended.stdout
    assert "does not exist" in (here.folder / "wrong-out.jsonl").read_text()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: not JSON"),
        ('{"custom_id": "1", "url": "/v1/chat/completion", "body": {}}', "did you mean '/v1/chat/completions'?"),
    ],
)
def test_a_wrong_line_is_told_before_anything_is_sent(here: Place, line: str, said: str) -> None:
    here.write("bad.jsonl", line)
    ended = here.call("llm", "batch", "bad.jsonl", "bad-out.jsonl", "--url", "http://127.0.0.1:9")
    assert ended.returncode == 1
    assert said in ended.stdout
    assert not (here.folder / "bad-out.jsonl").exists()


def test_a_file_that_is_not_there_is_named(here: Place) -> None:
    ended = here.call("llm", "batch", "none.jsonl", "out.jsonl")
    assert ended.returncode == 1
    assert "none.jsonl: No such file or directory" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--replicas", "4..1"), "--replicas: must be a number or a range such as 1..4, not '4..1'"),
        (("--replicas", "many"), "--replicas: must be"),
        (("--engine", "vlm"), "did you mean 'vllm'?"),
        (("--engine", "simulated", "--max-num-seq", "3"), "max_num_seqs"),
        (("--engine", "simulated", "stray"), "'stray' is no option"),
        (("--engine", "simulated", "--ssl-keyfile", "key.pem"), "end TLS in a reverse proxy"),
        (("--engine", "simulated", "--enable-lora", "--lora-modules", "sql=none"), "no adapter_config.json"),
    ],
)
def test_a_wrong_option_of_serve_is_named(here: Place, arguments: tuple[str, ...], said: str) -> None:
    ended = here.call("llm", "serve", "pretend", *arguments)
    assert ended.returncode == 1
    assert said in " ".join(ended.stdout.split())


def test_options_of_the_engine_are_read_as_what_they_look_like() -> None:
    given = ["--max-num-seqs", "64", "--enable-lora", "--no-enforce-eager", "--dtype=half", "--rope", '{"a": [1]}']
    given += ["--some", "1", "b", "--hf-overrides.rope.theta", "2", "--hf-overrides.rope.kind", "x"]
    assert engine_kwargs(given) == {
        "max_num_seqs": 64,
        "enable_lora": True,
        "enforce_eager": False,
        "dtype": "half",
        "rope": {"a": [1]},
        "some": [1, "b"],
        "hf_overrides": {"rope": {"theta": 2, "kind": "x"}},
    }


@pytest.mark.parametrize("given", [["stray"], ["--a", "1", "--a", "2"], ["--a", "{"], ["--a", "1", "--a.b", "2"]])
def test_arguments_that_are_no_options_are_refused(given: list[str]) -> None:
    with pytest.raises(ConfigError):
        engine_kwargs(given)
