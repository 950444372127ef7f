"""A running server: started, waited for, asked once, and ended with all its processes."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench import processes
from bench.peer import Peer, Request
from bench.probe import Probe
from bench.workload import Workload, wrong_answer

# A server that is still starting may refuse, answer 404 or 503; one that says 500 for this long is broken, seconds.
_BROKEN_AFTER_S = 5.0

_LOG = "server.log"

# What a server may inherit: enough to run, nothing that changes how Python or a framework behaves.
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "USER", "LD_LIBRARY_PATH")


class ServerFailed(Exception):
    """A server did not start, or answered wrongly. The message carries the end of its log."""


@dataclass
class Server:
    """A server that answers rightly.

    Attributes:
        port: on 127.0.0.1.
        requests: what to send, in turn.
        ready_s: from the start of its process until every route had answered rightly, seconds.
        commands: its standard input.
    """

    port: int
    requests: list[Request]
    ready_s: float
    commands: IO[bytes]


@contextmanager
def running(peer: Peer, python: Path, workload: Workload, ready_timeout_s: float) -> Iterator[Server]:
    """Run `workload`'s application on `peer` for the length of the `with` block.

    Raises ServerFailed if it ends, answers wrongly, or has not answered after `ready_timeout_s` seconds, and in place
    of what a probe raises inside the block.
    """
    scratch = Path(tempfile.mkdtemp(prefix="hb-", dir=tempfile.gettempdir()))  # short: it holds Unix sockets
    port = free_port()
    variables = {name: value.replace("{scratch}", str(scratch)) for name, value in peer.variables.items()}
    started = time.monotonic()
    leader = start_process(peer.command(python, workload, port), variables, scratch)
    assert leader.stdin is not None
    try:
        requests = peer.requests(workload)
        _wait_until_ready(leader, port, requests, workload, started + ready_timeout_s)
        yield Server(port, requests, time.monotonic() - started, leader.stdin)
    except (ServerFailed, OSError, http.client.HTTPException) as error:
        raise ServerFailed(f"{error or type(error).__name__}{_end_of_log(scratch / _LOG)}") from error
    finally:
        leader.stdin.close()
        processes.end_all(leader)
        shutil.rmtree(scratch, ignore_errors=True)


def start_process(command: list[str], variables: Mapping[str, str], scratch: Path) -> subprocess.Popen[bytes]:
    """Start a server whose output goes to a file in `scratch`, and that has `scratch` for its home folder."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    with (scratch / _LOG).open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            # What a framework writes into the home folder ends with the run.
            env={**inherited, "HOME": str(scratch), **variables},
            cwd=scratch,
            start_new_session=True,
            preexec_fn=processes.prepare_child,
        )


def wait_for_status(leader: subprocess.Popen[bytes], port: int, request: Request, timeout_s: float) -> None:
    """Return when the server answers `request` with status 200.

    Raises:
        ServerFailed: it has ended, or does not within `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    wrong = "no answer yet"
    with Probe(port, timeout_s=30.0) as probe:
        while time.monotonic() < deadline:
            try:
                status, body = probe.ask(request)
                if status == 200:
                    return
                wrong = f"status {status}: {body[:200]!r}"
            except (OSError, http.client.HTTPException) as error:
                wrong = f"{type(error).__name__}: {error}"
            if leader.poll() is not None:
                break
            time.sleep(0.01)  # polling: the server has no other way to say that it is ready
    raise ServerFailed(f"not ready: {request.method} {request.path}: {wrong}")


def _wait_until_ready(
    leader: subprocess.Popen[bytes], port: int, requests: list[Request], workload: Workload, deadline: float
) -> None:
    """Ask every request in turn, each until it is answered rightly."""
    broken_since: float | None = None
    with Probe(port, timeout_s=30.0) as probe:
        for request in requests:
            wrong = "no answer yet"
            while True:
                try:
                    status, body = probe.ask(request)
                    wrong = f"status {status}: {body[:200]!r}"
                    broken_since = (broken_since or time.monotonic()) if status == 500 else None
                    if status == 200:
                        reason = None if workload.app == "new-replica" else wrong_answer(workload, body)
                        if reason is None:
                            break
                        raise ServerFailed(f"wrong answer to {request.method} {request.path}: {reason}")
                except (OSError, http.client.HTTPException) as error:
                    wrong = f"{type(error).__name__}: {error}"
                if leader.poll() is not None:
                    raise ServerFailed(f"the server ended with status {leader.returncode} before it answered")
                if broken_since is not None and time.monotonic() - broken_since > _BROKEN_AFTER_S:
                    raise ServerFailed(f"{request.method} {request.path} keeps failing: {wrong}")
                if time.monotonic() > deadline:
                    raise ServerFailed(f"not ready in time: {request.method} {request.path}: {wrong}")
                time.sleep(0.002)  # polling: the server has no other way to say that it is ready


def free_port() -> int:
    """One of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _end_of_log(path: Path, lines: int = 12) -> str:
    text = path.read_text(errors="replace").strip()
    return "\n" + "\n".join(text.splitlines()[-lines:]) if text else " (its log is empty)"
