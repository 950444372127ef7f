"""A command on a pseudo-terminal, as somebody uses it who types."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator

from tests.cli.command import DEADLINE_S, Place, until


class Terminal:
    """A running command with a terminal. `text` is all that it has written."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self._written = b""
        self._seen = 0

    @property
    def text(self) -> str:
        with contextlib.suppress(BlockingIOError, OSError):  # OSError: it has ended
            while piece := os.read(self._descriptor, 65536):
                self._written += piece
        return self._written.decode(errors="replace")

    def says(self, *wanted: str) -> str:
        """What it writes from the last call on, until all that is wanted has come, in this order."""

        def end() -> int:
            place, text = self._seen, self.text
            for one in wanted:
                found = text.find(one, place)
                if found < 0:
                    assert self.process.poll() is None, text
                    return 0
                place = found + len(one)
            return place

        place = until(end)
        said, self._seen = self.text[self._seen : place], place
        return said

    def types(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def ends(self) -> int:
        """Its exit status, once it has ended."""

        def ended() -> bool:
            self.text  # noqa: B018  (it can only end when what it writes is read)
            return self.process.poll() is not None

        until(ended)
        return self.process.wait(DEADLINE_S)


@contextlib.contextmanager
def terminal(here: Place, *arguments: str) -> Iterator[Terminal]:
    """The command `headrace` with these arguments; it is ended afterwards."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = {**here.environment(), "TERM": "xterm-256color"}
    environment.pop("COLUMNS")
    process = subprocess.Popen(
        [sys.executable, "-c", _IN_A_SESSION, os.ttyname(theirs), *arguments],
        cwd=here.folder,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(ours)


# The first terminal that the leader of a session opens is its own: then Ctrl-C reaches it.
_IN_A_SESSION = "import os, sys; os.open(sys.argv.pop(1), os.O_RDWR); from headrace.cli import main; main()"
