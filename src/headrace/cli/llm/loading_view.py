"""What people see while models load: for each the stage, how much of it is done, the memory, the time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from headrace.cli.messages import bars_on_screen
from headrace.cli.progress import looking
from headrace.cli.status_view import running_replicas

_TELL_EVERY_S = 5.0
"""How often a line says how far a replica is, where there is no terminal."""

_SERVER = "LLMServer:"
_PROGRESS = re.compile(
    r"Replica [^ ]+: (?P<stage>[^\n]*?)(?: (?P<percent>\d+)%)?(?:, (?P<memory>[\d.]+ GiB))? \(\d+ s\)\."
)


@dataclass(frozen=True, slots=True)
class Loading:
    """What the replica of a model says that has been loading for longest.

    Attributes:
        stage: such as "loading weights".
        percent: of the stage; None where nobody knows.
        memory: such as "1.20 GiB"; "" where unknown.
    """

    stage: str
    percent: int | None = None
    memory: str = ""

    @classmethod
    def read(cls, message: str) -> Loading:
        """From a deployment's message: `0 of 1 replica running. Replica x: loading weights 40%, 1.20 GiB (5 s).`"""
        found = _PROGRESS.search(message)
        if found is None:
            return cls("starting")
        percent = found["percent"]
        return cls(found["stage"], None if percent is None else int(percent), found["memory"] or "")


_READY = Loading("ready", 100)


class LoadingView:
    """One line per model on a terminal; elsewhere, one line when a stage begins, and now and then one on how far it
    is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._stages: dict[str, str] = {}
        self._told: dict[str, tuple[float, Loading]] = {}
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/green]"),
            TextColumn("{task.description}"),
            TextColumn("[dim]{task.fields[stage]}[/dim]"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[percent]:>4} {task.fields[memory]:>10}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )

    def __enter__(self) -> LoadingView:
        if self._console.is_terminal:
            bars_on_screen.set()
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._progress.stop()
            bars_on_screen.clear()

    def show(self, application: dict[str, Any]) -> None:
        """Take on what an application's deployments have become."""
        others_run = True
        for deployment in application["deployments"].values():
            running, target = running_replicas(deployment), deployment["target_num_replicas"]
            if not deployment["name"].startswith(_SERVER):
                others_run = others_run and running >= target
                continue
            model = deployment["name"].removeprefix(_SERVER)
            name = model if target == 1 else f"{model} ({running}/{target} replicas)"
            runs = running >= target
            self._show(model, name, _READY if runs else Loading.read(deployment["message"]), runs)
        if application["deployments"]:
            self._show("", "the API", _READY if others_run else Loading("starting"), others_run)

    def _show(self, key: str, name: str, loading: Loading, runs: bool) -> None:
        if not self._console.is_terminal:
            self._tell(key, name, loading)
            return
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(name, total=100, stage="", percent="", memory="")
        task = self._tasks[key]
        fields: dict[str, Any] = {"stage": escape(loading.stage), "description": escape(name)}
        if loading.memory:
            fields["memory"] = loading.memory  # it stays where a later stage does not say it again
        if runs:
            self._progress.update(task, total=100, completed=100, percent="", **fields)
        elif loading.percent is None:
            self._progress.update(task, total=None, percent="", **fields)  # a bar that only says that it moves
        else:
            self._progress.update(task, total=100, completed=loading.percent, percent=f"{loading.percent}%", **fields)

    def _tell(self, key: str, name: str, loading: Loading) -> None:
        told_at, told = self._told.get(key, (0.0, None))
        now = time.monotonic()
        if loading == told or (told and loading.stage == told.stage and now - told_at < _TELL_EVERY_S):
            return
        self._told[key] = now, loading
        percent = "" if loading.percent is None or loading.stage == "ready" else f" {loading.percent}%"
        memory = f", {loading.memory}" if loading.memory else ""
        self._console.print(f"{escape(name)}: {escape(loading.stage)}{percent}{memory}")


@contextmanager
def showing_loading(details: Callable[[], dict[str, Any]], app_name: str, console: Console) -> Iterator[None]:
    """Show how an application's models load, while the body of the `with` statement waits for them."""
    with LoadingView(console) as view:

        def look() -> None:
            application = details()["applications"].get(app_name)
            if application is not None:
                view.show(application)

        with looking(look):
            yield
