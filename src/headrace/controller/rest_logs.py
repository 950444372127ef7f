"""The logs of the instance's processes over the REST API: which there are, their last lines, and what is added.

Names in a question are only compared with the names of files that are there; no path is made of them. The files are
those of the controller's machine.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from headrace.config.problems import nearest
from headrace.controller.controller import Controller
from headrace.observe.log_files import SUFFIX, LoggedProcess, is_written, shortened
from headrace.observe.log_reader import Budget, Entry, Tail, last_entries

PATH = "/api/headrace/logs"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
MAX_LINES = 10_000
MAX_FOLLOWERS = 32

_BUDGET_BYTES = 32 * 1024 * 1024
"""So much of the files is read for one question at most: a rare word must not keep the controller busy."""
_LOOK_EVERY_S = 0.25
_BLOCK = 256 * 1024
_HEARTBEAT_S = 5.0
_PARAMETERS = ("target", "lines", "since_s", "level", "grep", "follow")


@dataclass(frozen=True, slots=True)
class LogFile:
    """The log of one process."""

    process: LoggedProcess
    path: Path

    @property
    def label(self) -> str:
        return self.process.label


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for.

    Attributes:
        target: which processes; "" for all.
        lines: how many of the last.
        not_before: seconds since the epoch.
        level: entries below it are left out; "" for none.
        text: in whatever entries, whatever the case; "" for all.
        follow: go on with what comes.
    """

    target: str = ""
    lines: int = 100
    not_before: float = 0.0
    level: str = ""
    text: str = ""
    follow: bool = False

    def accepts(self, entry: Entry) -> bool:
        if self.level and entry.level in LEVELS and LEVELS.index(entry.level) < LEVELS.index(self.level):
            return False
        if not self.text:
            return True
        wanted = self.text.lower()
        return wanted in entry.message.lower() or wanted in entry.request_id.lower() or wanted in entry.route.lower()


def files_in(folder: Path) -> list[LogFile]:
    """The logs in an instance's folder for them, by label."""
    found = [LogFile(LoggedProcess.of_file(path.name), path) for path in folder.glob(f"*{SUFFIX}")]
    return sorted(found, key=lambda file: file.label)


def is_meant(process: LoggedProcess, target: str) -> bool:
    """Whether `target` names the process: `app`, `app/deployment` or `app/deployment/replica` (or the end of its id), a
    component such as `proxy`, or one process such as `proxy-0`. "" means all but the root, which tells no times.
    """
    if not target:
        return process.component != "root"
    wanted = "/".join(shortened(part) for part in target.replace("#", "/").split("/"))
    label = process.label
    if label == wanted or label.startswith(f"{wanted}/"):
        return True
    if process.component != "replica":
        return wanted == process.component
    owner, _, end = wanted.rpartition("/")
    return bool(end) and label.rpartition("/")[0] == owner and process.id.endswith(end)


class LogsApi:
    """The endpoints, in `routes`."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._folder = controller.session_dir / "logs"
        self._followers = 0
        self.routes = [
            Route(PATH, self.processes, methods=["GET"]),
            Route(f"{PATH}/entries", self.entries, methods=["GET"]),
        ]

    async def processes(self, request: Request) -> Response:
        """Which logs there are: of whom, how large, and whether it lives."""
        files = await asyncio.to_thread(_described, self._folder)
        return JSONResponse({"logs": files, "not_shown": await self._elsewhere()})

    async def entries(self, request: Request) -> Response:
        """The last entries of one log or of several, by time, as lines of JSON. The first has `not_shown`, the machines
        whose logs are not among them. With `follow=true` it goes on; empty lines are signs of life.
        """
        question = question_of(request)
        files = await asyncio.to_thread(files_in, self._folder)
        if not any(is_meant(file.process, question.target) for file in files):
            await self._check_target(question.target, files)
        if question.follow and self._followers >= MAX_FOLLOWERS:
            raise HTTPException(503, f"{MAX_FOLLOWERS} clients follow logs already; end one of them")
        return StreamingResponse(self._answer(question), media_type="application/x-ndjson")

    async def _check_target(self, target: str, files: list[LogFile]) -> None:
        """Raises HTTPException where there is no such process; one that has said nothing yet has no file."""
        names = {name for file in files for name in _names(file.process)}
        for manager in self._controller.applications.managers:
            spec = manager.spec
            names |= {spec.app, f"{spec.app}/{spec.name}"}
        if not target or target in names:
            return
        elsewhere = await self._elsewhere()
        where = f"; logs of {', '.join(elsewhere)} are not shown here" if elsewhere else ""
        meant = nearest(target, names)
        there = sorted(name for name in names if name.count("/") < 2)
        hint = f"did you mean '{meant}'?" if meant else f"there are {', '.join(there) or 'none'}"
        raise HTTPException(404, f"there is no log of '{target}'; {hint}{where}")

    async def _elsewhere(self) -> list[str]:
        """Machines whose processes have their files there."""
        status = await self._controller.status([])
        others = [node for node in status.nodes if node.alive and node.node != status.controller_node]
        return [f"{node.node} ({node.host})" for node in others] if len(status.nodes) > 1 else []

    async def _answer(self, question: Question) -> AsyncIterator[bytes]:
        yield _line({"not_shown": await self._elsewhere()})
        tails: dict[str, Tail] = {}
        if not question.follow:
            for entry in await asyncio.to_thread(_last, self._folder, question, tails):
                yield _line(entry)
            return
        self._followers += 1
        try:
            # The ends are marked before the last lines are read: nothing comes twice, or not at all.
            await asyncio.to_thread(_look, self._folder, question, tails, False)
            for entry in await asyncio.to_thread(_last, self._folder, question, tails):
                yield _line(entry)
            alive_at = time.monotonic()
            while True:
                entries = await asyncio.to_thread(_look, self._folder, question, tails, True)
                if entries:
                    yield b"".join(map(_line, entries))
                elif time.monotonic() - alive_at >= _HEARTBEAT_S:
                    yield b"\n"  # who has gone is noticed by it
                else:
                    await asyncio.sleep(_LOOK_EVERY_S)
                    continue
                alive_at = time.monotonic()
        finally:
            self._followers -= 1
            for tail in tails.values():
                tail.close()


def question_of(request: Request) -> Question:
    """What the query of a request says.

    Raises:
        HTTPException: 400, something in it is wrong.
    """
    given = request.query_params
    for name in given:
        if name not in _PARAMETERS:
            meant = nearest(name, _PARAMETERS)
            raise HTTPException(
                400, f"{name}: unknown; " + (f"did you mean '{meant}'?" if meant else "see docs/logs.md")
            )
    level = given.get("level", "").upper()
    if level and level not in LEVELS:
        raise HTTPException(400, f"level: must be one of {', '.join(LEVELS)}, not {given['level'][:40]!r}")
    follow = given.get("follow", "false").lower()
    if follow not in ("true", "false", "1", "0"):
        raise HTTPException(400, f"follow: must be true or false, not {follow[:40]!r}")
    since_s = _number(given.get("since_s"), "since_s", "seconds")
    lines = _number(given.get("lines", "100"), "lines", "lines")
    if lines is not None and lines > MAX_LINES:
        raise HTTPException(400, f"lines: must be at most {MAX_LINES}, not {lines:g}")
    return Question(
        target=given.get("target", "").strip("/"),
        lines=int(lines or 0),
        not_before=0.0 if since_s is None else time.time() - since_s,
        level=level,
        text=given.get("grep", ""),
        follow=follow in ("true", "1"),
    )


def _number(text: str | None, name: str, unit: str) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e12:
        raise HTTPException(400, f"{name}: must be a number of {unit}, 0 or more, not {text[:40]!r}")
    return number


def _last(folder: Path, question: Question, ends: dict[str, Tail]) -> list[Entry]:
    """The last entries of all that are meant. Of what is followed, up to where following begins."""
    budget = Budget(_BUDGET_BYTES)
    found: list[list[Entry]] = []
    for file in files_in(folder):
        if is_meant(file.process, question.target):
            end = ends[file.path.name].position if file.path.name in ends else None
            if question.follow and end is None:
                continue  # has come since, and is read from its beginning
            found.append(
                last_entries(file.path, file.label, question.lines, question.accepts, question.not_before, budget, end)
            )
    entries = list(heapq.merge(*found, key=lambda entry: entry.time))
    return entries[-question.lines :] if question.lines else []


def _look(folder: Path, question: Question, tails: dict[str, Tail], begun: bool) -> list[Entry]:
    """What has been added since the last look. `begun`: it is not the first; files that are new are read in full."""
    entries: list[Entry] = []
    files = files_in(folder)
    for name in tails.keys() - {file.path.name for file in files}:
        tails.pop(name).close()
    for file in files:
        name = file.path.name
        if not is_meant(file.process, question.target):
            continue
        try:
            if name not in tails:
                tails[name] = Tail(file.path, file.label, 0 if begun else None)
            if begun:
                entries += [entry for entry in tails[name].read(_BLOCK) if question.accepts(entry)]
        except OSError:
            continue  # removed at this moment
    return sorted(entries, key=lambda entry: entry.time)


def _described(folder: Path) -> list[dict[str, Any]]:
    described = []
    for file in files_in(folder):
        try:
            status, alive = file.path.stat(), is_written(file.path)
        except OSError:
            continue
        process = file.process
        described.append(
            {
                "process": file.label,
                "component": process.component,
                "application": process.application,
                "deployment": process.deployment,
                "bytes": status.st_size,
                "written_at": status.st_mtime,
                "alive": alive,
            }
        )
    return described


def _names(process: LoggedProcess) -> Iterable[str]:
    if process.component == "replica":
        return (process.application, f"{process.application}/{process.deployment}", process.label)
    return (process.component, process.label)


def _line(value: Any) -> bytes:
    return msgspec.json.encode(value, enc_hook=str) + b"\n"
