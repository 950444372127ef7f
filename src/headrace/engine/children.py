"""The root's children: forks them, notes their ends, starts again those that must not end, and ends all."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from headrace.engine import child, orphans, session
from headrace.engine.activity import activity_of
from headrace.engine.guardian import Guardian
from headrace.engine.listeners import listen_unix
from headrace.engine.process import Activity, ProcessContext, ProcessExited, ProcessInfo, ProcessSpec
from headrace.engine.restarts import Restarts
from headrace.exceptions import StartupError

_REMEMBERED_EXITS = 1_000
_SECONDS_TO_KILL = 2.0


def _say(text: str) -> None:
    """For the person at the terminal, who may have gone."""
    with contextlib.suppress(OSError):
        print(f"headrace: {text}", file=sys.stderr, flush=True)


@dataclass
class _Child:
    spec: ProcessSpec
    pid: int
    started_at: float
    started: float  # by the monotonic clock


class Children:
    """The processes of one instance.

    Args:
        folder: the session folder.
        secret: what the processes prove to each other that they belong together with.
        shared: listening sockets that the processes of a role inherit: role to name to socket.
        close_root: closes, in a new process, what else the root has open.
        guardian: told of every process.
        node, zone: what this machine is called.
    """

    def __init__(
        self,
        folder: Path,
        secret: bytes,
        shared: dict[str, dict[str, socket.socket]],
        close_root: Callable[[], None],
        guardian: Guardian,
        node: str = "",
        zone: str = "",
    ) -> None:
        self._folder = folder
        self._secret = secret
        self._shared = shared
        self._close_root = close_root
        self._guardian = guardian
        self._node = node
        self._zone = zone
        self._by_name: dict[str, _Child] = {}
        self._names: dict[int, str] = {}
        # Sockets that outlive their process, so that connections wait for the next one.
        self._listeners: dict[str, socket.socket] = {}
        self._restarts: dict[str, Restarts] = {}
        self._due: dict[str, tuple[float, ProcessSpec]] = {}
        self._sequence = 0
        self._stopping = False
        self.exits: deque[ProcessExited] = deque(maxlen=_REMEMBERED_EXITS)
        # Nobody ever writes to it. Where the system cannot end a process with its parent, its end of file does.
        self._lifeline = None if sys.platform == "linux" else os.pipe()

    def adopt_listener(self, name: str, listener: socket.socket) -> None:
        """Take over the listening socket of a process that is started later."""
        self._listeners[name] = listener

    def _listen(self, name: str, listen: str) -> None:
        path = session.socket_path(self._folder, listen)
        try:
            self._listeners[name] = listen_unix(path)
        except OSError as error:
            raise StartupError(f"cannot listen on {path} for '{name}': {error}") from error

    def close_listeners(self) -> None:
        """Close all listening sockets, in a process that listens on none."""
        for listener in (*self._listeners.values(), *(s for named in self._shared.values() for s in named.values())):
            listener.close()

    def start(self, spec: ProcessSpec) -> ProcessInfo:
        """Fork a process.

        Raises:
            StartupError: its name is taken, its folder is missing, its socket cannot be opened, or the system refuses
                to fork.
        """
        living = self._by_name.get(spec.name)
        if living is not None:
            raise StartupError(f"a process named '{spec.name}' runs already (pid {living.pid})")
        if spec.cwd is not None and not os.path.isdir(spec.cwd):
            raise StartupError(f"'{spec.name}' cannot work in {spec.cwd}: there is no such folder on this machine")
        self._due.pop(spec.name, None)
        if spec.listen is not None and spec.name not in self._listeners:
            self._listen(spec.name, spec.listen)
        try:
            pid = self._fork(spec)
        except OSError as error:
            raise StartupError(f"the system refuses a process for '{spec.name}': {error}") from error
        finally:
            if not spec.restart and (listener := self._listeners.pop(spec.name, None)):
                listener.close()
        with contextlib.suppress(OSError):  # whichever of the two comes first
            os.setpgid(pid, pid)
        started = self._by_name[spec.name] = _Child(spec, pid, time.time(), time.monotonic())
        self._names[pid] = spec.name
        self._guardian.started(pid)
        return self._info(started)

    def _fork(self, spec: ProcessSpec) -> int:
        root_pid = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal to the new process must not meet the root's handlers in it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                self._in_new_process(spec, root_pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pid

    def _in_new_process(self, spec: ProcessSpec, root_pid: int) -> None:
        try:
            listeners = dict(self._shared.get(spec.role, {}))
            own = self._listeners.pop(spec.name, None)
            if own is not None:
                listeners["wire"] = own
            mine = {listener.fileno() for listener in listeners.values()}
            others = [*self._listeners.values(), *(s for named in self._shared.values() for s in named.values())]
            for other in others:
                if other.fileno() not in mine:
                    other.close()
            self._close_root()
            lifeline = None
            if self._lifeline is not None:
                lifeline = self._lifeline[0]
                os.close(self._lifeline[1])
            context = ProcessContext(spec.name, spec.args, self._folder, self._secret, listeners, lifeline)
            child.become(spec, context, root_pid)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def info(self) -> list[ProcessInfo]:
        return [self._info(living) for living in self._by_name.values()]

    def _info(self, living: _Child) -> ProcessInfo:
        spec = living.spec
        socket = None if spec.listen is None else self._folder / spec.listen
        vitals = None if socket is None else socket.with_suffix(".vitals")
        if spec.role == "proxy":
            vitals = self._folder / f"{spec.name}.vitals"
        return ProcessInfo(
            name=spec.name,
            role=spec.role,
            pid=living.pid,
            listen=None if socket is None else os.fspath(socket),
            started_at=living.started_at,
            args=spec.args,
            allocation=spec.allocation,
            node=self._node,
            zone=self._zone,
            address="" if socket is None else os.fspath(socket),
            vitals="" if vitals is None else os.fspath(vitals),
        )

    def inspect(self, name: str) -> Activity | None:
        """What the system tells of a process; None if there is none of this name."""
        living = self._by_name.get(name)
        return None if living is None else activity_of(living.pid)

    def kill(self, name: str, number: int) -> bool:
        """Send a signal to a process; False if there is none of this name."""
        living = self._by_name.get(name)
        if living is None:
            return False
        os.kill(living.pid, number)  # not reaped yet, so the pid is still its own
        return True

    def retire(self, role: str) -> None:
        """Ask the processes of a role to end themselves, and start none of them again."""
        self._due = {name: due for name, due in self._due.items() if due[1].role != role}
        retiring = [living for living in self._by_name.values() if living.spec.role == role]
        for living in retiring:
            living.spec.restart = False
        self._signal(retiring, signal.SIGTERM)

    def reap(self) -> list[ProcessExited]:
        """Note what has ended since the last call; plan new starts; end what the dead had started themselves."""
        exits = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            name = self._names.pop(pid, None)
            if name is not None:
                exits.append(self._ended(self._by_name.pop(name), status))
            else:  # an orphan that the root had adopted, or the guardian
                self._guardian.reaped(pid)
        if exits:
            orphans.end_descendants(self._folder.name, [dead.pid for dead in exits], self._names)
        return exits

    def _ended(self, dead: _Child, status: int) -> ProcessExited:
        spec = dead.spec
        with contextlib.suppress(OSError):
            os.killpg(dead.pid, signal.SIGKILL)
        self._guardian.ended(dead.pid)
        session.remove_buffers(self._folder, dead.pid)
        code = os.waitstatus_to_exitcode(status)
        self._sequence += 1
        exited = ProcessExited(
            sequence=self._sequence,
            name=spec.name,
            role=spec.role,
            pid=dead.pid,
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
        )
        self.exits.append(exited)
        if spec.restart and not self._stopping:
            delay = self._restarts.setdefault(spec.name, Restarts()).delay_after(time.monotonic() - dead.started)
            self._due[spec.name] = (time.monotonic() + delay, spec)
            how = f"with status {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
            when = f"in {delay:.1f} s" if delay else "now"
            _say(f"{spec.name} (pid {dead.pid}) ended {how}; starts again {when}")
        elif spec.listen is not None:
            self._remove_sockets(spec.listen)
        return exited

    def _remove_sockets(self, listen: str) -> None:
        """Remove a process's socket and those named like it, as it had no chance to if it was killed."""
        for path in self._folder.glob(f"{Path(listen).stem}.*"):
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(path.stat().st_mode):
                    path.unlink()

    def seconds_to_restart(self) -> float | None:
        """Until when a process waits to be started again; None if none does."""
        return max(0.0, min(due for due, _ in self._due.values()) - time.monotonic()) if self._due else None

    def restart_due(self) -> None:
        """Start again what has waited long enough."""
        now = time.monotonic()
        for name, (due, spec) in list(self._due.items()):
            if due <= now:
                try:
                    self.start(spec)
                except StartupError as error:
                    _say(f"{error}; trying again")
                    self._due[name] = (now + 1.0, spec)

    def stop(self, grace_s: float, wait: Callable[[float], bool]) -> None:
        """End all processes: proxies first, so that what they have begun is still served, then the others.

        Args:
            grace_s: seconds that they have to end themselves, all together.
            wait: waits up to so many seconds for a process to end; False to go on without grace.
        """
        self._stopping = True
        self._due.clear()
        patient = True
        start = time.monotonic()
        everyone = list(self._by_name.values())
        proxies = [living for living in everyone if living.spec.role == "proxy"]
        others = [living for living in everyone if living.spec.role != "proxy"]
        for told, awaited, deadline in ((proxies, proxies, start + grace_s / 2), (others, everyone, start + grace_s)):
            self._signal(told, signal.SIGTERM)
            while patient and self._any_alive(awaited) and (left := deadline - time.monotonic()) > 0:
                patient = wait(left)
                self.reap()
        self._kill_all(wait)

    def _any_alive(self, children: Iterable[_Child]) -> bool:
        return any(living.pid in self._names for living in children)

    def _signal(self, children: Iterable[_Child], number: int) -> None:
        for living in children:
            with contextlib.suppress(OSError):
                os.kill(living.pid, number)

    def _kill_all(self, wait: Callable[[float], bool]) -> None:
        """Kill what is left, with the groups, and what was orphaned and came to the root."""
        for living in self._by_name.values():
            with contextlib.suppress(OSError):
                os.killpg(living.pid, signal.SIGKILL)
        deadline = time.monotonic() + _SECONDS_TO_KILL
        while self._has_children() and time.monotonic() < deadline:
            orphans.end_all(self._guards())
            wait(0.05)

    def _has_children(self) -> bool:
        self.reap()
        return bool(self._by_name) or any(pid not in self._guards() for pid in orphans.children())

    def _guards(self) -> set[int]:
        """The guardian, which stays until there is nothing left to guard."""
        return set() if self._guardian.pid is None else {self._guardian.pid}
