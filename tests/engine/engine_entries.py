"""What the processes of these tests do. Each says that it runs by a file, or by answering on its socket."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec

from headrace.engine.process import ProcessContext


def serve_wire(context: ProcessContext) -> None:
    """Answers every connection to its socket with facts about itself, until it is told to end."""
    wire = context.listeners["wire"]
    wire.setblocking(True)
    while True:
        connection, _ = wire.accept()
        with connection:
            connection.sendall(msgspec.json.encode(facts(context)))


def facts(context: ProcessContext) -> dict[str, object]:
    return {
        "name": context.name,
        "args": context.args,
        "pid": os.getpid(),
        "parent": os.getppid(),
        "group": os.getpgid(0),
        "secret": context.secret.hex(),
        "listeners": sorted(context.listeners),
        "open_files": sorted(os.readlink(f"/proc/self/fd/{name}") for name in list_files()),
        "threads": len(os.listdir("/proc/self/task")),
        "cwd": os.getcwd(),
        "colour": os.environ.get("COLOUR"),
        "random": random.random(),
        "main": sys.modules["__main__"].__dict__.get("__file__"),
        "open_files_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    }


def list_files() -> list[str]:
    return [name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")]


def proxy(context: ProcessContext) -> None:
    """Answers every connection to the HTTP socket with its pid, and ends at once when told to."""
    http = context.listeners["http"]
    http.setblocking(True)
    while True:
        connection, _ = http.accept()
        with connection:
            connection.sendall(str(os.getpid()).encode())


def fail(context: ProcessContext) -> None:
    raise ValueError("it cannot work")


def leave(context: ProcessContext) -> None:
    sys.exit(context.args["status"])


def at_exit(context: ProcessContext) -> None:
    import atexit

    atexit.register(lambda: Path(context.args["file"]).write_text("it ran"))


def ignore_the_end(context: ProcessContext) -> None:
    """Cannot be ended by SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    serve_wire(context)


def tidy_up(context: ProcessContext) -> None:
    """Writes its name when it is told to end."""
    file = context.args["file"]
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    Path(f"{file}.{context.name}").touch()
    ended.wait()
    with open(file, "a") as log:
        log.write(context.name + "\n")


def tidy_up_proxy(context: ProcessContext) -> None:
    context.args = context.args["instance"]
    tidy_up(context)


def talk(context: ProcessContext) -> None:
    print("to standard output")
    print("to standard error", file=sys.stderr)
    serve_wire(context)


def start_others(context: ProcessContext) -> None:
    """What user code may do: start a program, and one that leaves the process group."""
    same = subprocess.Popen(["sleep", "600"])
    away = subprocess.Popen(["sleep", "600"], start_new_session=True)
    new = Path(context.args["file"] + ".new")
    new.write_text(f"{same.pid} {away.pid}")
    new.rename(context.args["file"])
    signal.pause()
