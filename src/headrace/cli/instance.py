"""The instance that a command serves on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable
from contextlib import nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from headrace.cli.rest import RestClient, of_session
from headrace.exceptions import HeadraceError, StartupError

if TYPE_CHECKING:
    from headrace.cli.relay import Relay
    from headrace.client import Client

_LOOK_EVERY_S = 0.5


class Instance:
    """A context manager: the instance that runs on this machine, or one that is started for the command.

    At the end of the context, an instance that was started for it ends, and of another one, the applications that were
    `brought`. A `detached` one goes on with all that it serves, unless the context ends by an exception before anything
    is served.

    Args:
        start_options: what `headrace.api.start` takes.
        detached: leave everything running at the end.
    """

    def __init__(self, start_options: dict[str, Any], *, detached: bool) -> None:
        self.detached = detached
        self._start_options = start_options
        self._brought: set[str] = set()
        self.client: Client
        self.rest: RestClient
        self.started = False
        self._relay: Relay | None = None

    def __enter__(self) -> Self:
        from headrace import client

        # `kill` and container runtimes mean the same as Ctrl-C.
        signal.signal(signal.SIGTERM, _interrupt)
        if find_client(self._start_options.get("engine"), self._start_options.get("address")) is None:
            self._start()
        else:
            from headrace.cli.messages import err

            err.print("Serving on the instance that runs already, with its own host and port.", style="yellow")
        self.client = client.find()
        self.rest = of_session(self.client.session)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self.detached and error is None:
            return False
        if self.started:
            self._stop()
        elif not self.detached:
            self._take_away()
        return isinstance(error, KeyboardInterrupt)

    def bring(self, names: Iterable[str]) -> None:
        """These applications are this command's."""
        self._brought.update(names)

    def wait(self) -> None:
        """Stay as long as the instance lives.

        Raises:
            HeadraceError: it has ended, and not by this process's doing.
        """
        pause = threading.Event()
        while self.client.alive:
            pause.wait(_LOOK_EVERY_S)
        raise HeadraceError(f"the instance in {self.client.session.dir} has ended by itself")

    def _start(self) -> None:
        from headrace import api

        if not self.detached and os.isatty(2):
            from headrace.cli.relay import Relay

            self._relay = Relay()
        try:
            with self._relay.attached() if self._relay is not None else nullcontext():
                api.start(**self._start_options, detached=self.detached)
        except StartupError as error:
            # What an option of the API is on the command line.
            text = str(error).replace("http_options.port", "--port").replace("dashboard_port", "--rest-port")
            raise StartupError(text) from None
        self.started = True

    def _take_away(self) -> None:
        from headrace.cli.messages import err

        self.client.delete(sorted(self._brought))
        err.print(f"\nDeleted {', '.join(sorted(self._brought))}; the instance goes on.")

    def _stop(self) -> None:
        from headrace.cli.messages import err

        err.print("\nStopping …")
        self.client.shutdown()
        if self._relay is not None:
            self._relay.finish()
        err.print("Stopped.")


def find_client(engine: str | None = None, address: str | None = None) -> Client | None:
    """A connection to the instance that runs on this machine, or on the Ray cluster; None if there is none."""
    from headrace import client
    from headrace.exceptions import NotRunningError

    try:
        return client.find(engine, address)
    except NotRunningError:
        return None


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt
