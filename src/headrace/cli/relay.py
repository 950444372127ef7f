"""What the instance's processes write, brought to the terminal without breaking the progress bars on it."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
import threading
import tty
from collections.abc import Iterator

from rich.text import Text

from headrace.cli.messages import bars_on_screen, err


class Relay:
    """A terminal of its own for the processes that are started inside `with relay.attached()`.

    They find a terminal, as they would without it, and so write in lines and colours. While bars are on the screen,
    what they write comes above the bars, line by line; else as it is.
    """

    def __init__(self) -> None:
        self._ours, self._theirs = os.openpty()
        tty.setraw(self._theirs)
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetwinsize(self._theirs, termios.tcgetwinsize(2))
        self._thread = threading.Thread(target=self._bring, name="headrace-relay", daemon=True)

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Processes that are started meanwhile write here instead of to this process's terminal."""
        sys.stdout.flush()
        sys.stderr.flush()
        replaced = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        kept = {descriptor: os.dup(descriptor) for descriptor in replaced}
        for descriptor in replaced:
            os.dup2(self._theirs, descriptor)
        try:
            yield
        finally:
            for descriptor, original in kept.items():
                os.dup2(original, descriptor)
                os.close(original)
            os.close(self._theirs)
            self._thread.start()

    def finish(self, timeout_s: float = 1.0) -> None:
        """Wait until everything is brought that ended processes have written, `timeout_s` seconds at most."""
        self._thread.join(timeout_s)

    def _bring(self) -> None:
        unfinished = b""
        # An error means that nobody holds the other end any more.
        with contextlib.suppress(OSError):
            while data := os.read(self._ours, 65536):
                unfinished = self._show(unfinished + data)
        if unfinished:
            os.write(2, unfinished)
        os.close(self._ours)

    def _show(self, data: bytes) -> bytes:
        """Writes it, and returns what is to be kept until there is more: half a line, while bars are drawn."""
        if not bars_on_screen.is_set():
            os.write(2, data)
            return b""
        *lines, rest = data.split(b"\n")
        for line in lines:
            # Of a line that was written over itself, the last state.
            shown = line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")
            err.print(Text.from_ansi(shown), soft_wrap=True)
        return rest
