"""What people see while replicas start."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from headrace.cli.messages import bars_on_screen
from headrace.cli.status_view import running_replicas
from headrace.exceptions import DeploymentFailedError, HeadraceError

_LOOK_EVERY_S = 0.1

_TELL_EVERY_S = 5.0
"""How often a line says how far constructors are, where there is no terminal."""

_REPLICA = re.compile(r"^Replica \S+: ")


class StartingReplicas:
    """One bar per deployment on a terminal; elsewhere, one line whenever a number changes, and now and then one on how
    far a constructor that takes long says it is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._seen: dict[str, tuple[int, int]] = {}
        self._tasks: dict[str, TaskID] = {}
        self._told: dict[str, tuple[float, str]] = {}
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/green]"),
            TextColumn("{task.fields[deployment]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} replicas"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[progress]}[/dim]"),
            console=console,
            transient=True,
        )

    def __enter__(self) -> StartingReplicas:
        if self._console.is_terminal:
            bars_on_screen.set()
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        bars_on_screen.clear()

    def show(self, applications: Collection[dict[str, Any]]) -> None:
        """Take on what the applications' deployments have become."""
        for application in applications:
            for deployment in application["deployments"].values():
                name = f"{application['name']} · {deployment['name']}" if len(applications) > 1 else deployment["name"]
                # What follows the numbers, which are shown already; which of the replicas says so, matters to few.
                progress = _REPLICA.sub("", deployment["message"].partition("running.")[2].strip())
                self._show(name, running_replicas(deployment), deployment["target_num_replicas"], progress)

    def _show(self, name: str, running: int, target: int, progress: str) -> None:
        changed = self._seen.get(name) != (running, target)
        self._seen[name] = (running, target)
        if not self._console.is_terminal:
            if changed:
                self._console.print(f"{name}: {running}/{target} replicas running")
                self._told.setdefault(name, (time.monotonic(), ""))
            elif progress:
                self._tell(name, progress)
            return
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task("", total=target, deployment=name, progress="")
        self._progress.update(self._tasks[name], completed=running, total=target, progress=escape(progress))

    def _tell(self, name: str, progress: str) -> None:
        told_at, told = self._told[name]
        if progress != told and time.monotonic() - told_at >= _TELL_EVERY_S:
            self._told[name] = time.monotonic(), progress
            self._console.print(f"{name}: {escape(progress)}")


def wait_until_running(
    details: Callable[[], dict[str, Any]], names: Collection[str], console: Console
) -> dict[str, Any]:
    """Show how the named applications start, until all of them run. Returns the last details.

    Raises:
        DeploymentFailedError: one of them failed; the message has the reason.
    """
    pause = threading.Event()
    with StartingReplicas(console) as starting:
        while True:
            now = details()
            applications = [now["applications"][name] for name in names if name in now["applications"]]
            starting.show(applications)
            failed = [application for application in applications if application["status"] == "DEPLOY_FAILED"]
            if failed:
                raise DeploymentFailedError(
                    "\n\n".join(f"application '{app['name']}': {app['message']}" for app in failed)
                )
            if len(applications) == len(names) and all(app["status"] == "RUNNING" for app in applications):
                return now
            pause.wait(_LOOK_EVERY_S)


@contextmanager
def showing_starts(details: Callable[[], dict[str, Any]], names: Collection[str], console: Console) -> Iterator[None]:
    """Show how the named applications start, while the body of the `with` statement waits for them."""
    with StartingReplicas(console) as starting:

        def look() -> None:
            now = details()["applications"]
            starting.show([now[name] for name in names if name in now])

        with looking(look):
            yield


@contextmanager
def looking(look: Callable[[], None]) -> Iterator[None]:
    """Call `look` time and again while the body of the `with` statement runs, and once more at its end.

    What it raises of ours is passed over: the body will tell what is wrong.
    """
    done = threading.Event()

    def look_until_done() -> None:
        finished = False
        while not finished:
            finished = done.wait(_LOOK_EVERY_S)  # and then once more, for what it has come to
            with suppress(HeadraceError):
                look()

    thread = threading.Thread(target=look_until_done, name="headrace-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
