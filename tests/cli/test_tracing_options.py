"""Tracing from the command line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serve.otlp_receiver import receiver

from .command import Place, fetch, place, until

HELLO = """\
import headrace as serve

@serve.deployment
class Hello:
    def __call__(self):
        return "hello"

app = Hello.bind()
"""

CONFIG = """\
tracing_config:
  endpoint: {endpoint}
  service_name: of the file
applications:
- name: hello
  import_path: hello:app
"""

pytestmark = pytest.mark.local_engine("the collector listens on this machine's loopback")


@pytest.fixture
def here() -> Iterator[Place]:
    with place() as folder:
        folder.write("hello.py", HELLO)
        yield folder


def test_run_sends_traces_where_the_option_says_and_else_where_the_file_says(here: Place) -> None:
    with receiver() as option, receiver() as file:
        here.write("serve.yaml", CONFIG.format(endpoint=file.url))
        for options, collector in ((("--otlp-endpoint", option.url), option), ((), file)):
            command = here.begin("run", "serve.yaml", "--port", "0", "--rest-port", "0", *options)
            assert fetch(command.url()) == "hello"
            assert command.interrupt() == 0
            until(lambda collector=collector: any(span.name == "GET /" for span in collector.spans))
            assert {span.resource["service.name"] for span in collector.spans} == {"of the file"}
        assert "ignored" not in command.output


def test_start_takes_the_options_and_tells_of_mistakes(here: Place) -> None:
    wrong = here.call("start", "--http-port", "0", "--rest-port", "0", "--trace-sampling-ratio", "7")
    assert wrong.returncode == 1
    assert "tracing_config" in wrong.stdout and "sampling_ratio" in wrong.stdout
    with receiver() as collector:
        options = ("--otlp-endpoint", collector.url, "--trace-sampling-ratio", "1")
        assert here.call("start", "--http-port", "0", "--rest-port", "0", *options).returncode == 0
        deployed = here.call("deploy", "hello:app")
        assert deployed.returncode == 0, deployed.stdout
        address = next(line for line in here.call("start").stdout.splitlines() if line.startswith("Applications"))
        assert fetch(address.split()[1]) == "hello"
        assert here.call("shutdown", "--yes").returncode == 0
        assert any(span.name == "Hello.__call__" for span in collector.spans)
