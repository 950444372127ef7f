"""The `headrace` command as a process of its own, as a user starts it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

DEADLINE_S = 30.0


def until(wanted: Callable[[], T]) -> T:
    """What `wanted` returns once it is true."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := wanted()):
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:g} s in vain"
        time.sleep(0.02)
    return found


class Command:
    """A running command. What it has written so far is in `output`."""

    def __init__(self, process: subprocess.Popen[bytes], file: Path) -> None:
        self.process = process
        self._file = file

    @property
    def output(self) -> str:
        return self._file.read_text(errors="replace")

    def says(self, text: str) -> str:
        """All that it has written, once `text` is in it."""

        def said() -> bool:
            assert self.process.poll() is None or text in self.output, self.output
            return text in self.output

        until(said)
        return self.output

    def url(self, route: str = "/") -> str:
        """Where the application with that route answers, once the command has told."""
        pattern = re.compile(rf"http://127\.0\.0\.1:\d+{re.escape(route)}(?=\s)")
        self.says("● RUNNING")
        return str(until(lambda: pattern.findall(self.output))[-1])

    def interrupt(self, number: int = signal.SIGINT) -> int:
        """What Ctrl-C does. Returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


class Place:
    """A folder to work in, with instances of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sessions = folder / "s"
        self._commands: list[Command] = []

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "RAY_"))}
        own = {"XDG_DATA_HOME": str(self.folder / "data")}
        return {**kept, "HEADRACE_SESSIONS": str(self.sessions), "COLUMNS": "200", **own}

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def begin(self, *arguments: str) -> Command:
        """Start the command and go on."""
        file = self.folder / f"output-{len(self._commands)}"
        with file.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "headrace", *arguments],
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._commands.append(Command(process, file))
        return self._commands[-1]

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "headrace", *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def is_empty(self) -> bool:
        """Whether no instance has left anything."""
        return not self.sessions.exists() or not [path for path in self.sessions.iterdir() if path.is_dir()]

    def end(self) -> None:
        self.call("shutdown", "--yes")
        for command in self._commands:
            if command.process.poll() is None:
                command.process.kill()
                command.process.wait()


@contextlib.contextmanager
def place() -> Iterator[Place]:
    """A folder that is gone afterwards, with every process that was started in it."""
    # Not pytest's: the path of a Unix socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="hr-"))
    here = Place(folder)
    try:
        yield here
    finally:
        here.end()
        shutil.rmtree(folder, ignore_errors=True)


def fetch(url: str) -> str:
    """The body of what answers there."""
    with urllib.request.urlopen(url, timeout=DEADLINE_S) as response:
        return str(response.read().decode())
