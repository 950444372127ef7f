"""Starts an instance on this machine, and ends it."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from headrace.engine import orphans
from headrace.engine import session as session_folder
from headrace.engine.commands import Shutdown, frame
from headrace.engine.machine import told_gpus
from headrace.engine.root_config import RootAnswer, RootConfig
from headrace.engine.session import Session
from headrace.exceptions import StartupError

_ROOT_PROGRAM = Path(__file__).with_name("root.py")


class RootHandle:
    """An instance that this process has started.

    Attributes:
        session: its folder and addresses.
        pid: process id of its root.
    """

    def __init__(self, process: subprocess.Popen[bytes], session: Session) -> None:
        self._process = process
        self.session = session

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ask the instance to end and wait until it has, `timeout_s` seconds at most; then kill it. May be repeated."""
        if self.alive:
            stop_session(self.session, timeout_s)
        self._process.wait()


class PendingRoot:
    """An instance that is being started; other work can be done before `wait`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def wait(self, timeout_s: float = 30.0) -> RootHandle:
        """Wait until the instance accepts connections.

        Raises:
            StartupError: it cannot start, or has not within `timeout_s` seconds.
        """
        line = self._read_line(time.monotonic() + timeout_s)
        if line is None:
            self.give_up()
            raise StartupError(f"the root process did not answer within {timeout_s:g} s; the machine may be overloaded")
        if not line.endswith(b"\n"):
            status = self._process.wait()
            self.give_up()
            raise StartupError(f"the root process ended with status {status} before it answered; see its output above")
        answer = msgspec.json.decode(line, type=RootAnswer)
        if answer.error is not None:
            self._process.wait()
            self.give_up()
            raise StartupError(answer.error)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return RootHandle(self._process, Session.load(answer.session_dir))

    def _read_line(self, deadline: float) -> bytes | None:
        """What came up to the end of the line or of the file; None if neither came in time."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        line = b""
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                return None
            data = os.read(descriptor, 65536)
            if not data:
                break
            line += data
        return line

    def give_up(self) -> None:
        """End it, whatever state it is in."""
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()


def begin_launch(config: RootConfig, *, orphan: bool = False) -> PendingRoot:
    """Start an instance and do not wait for it.

    The root finds modules where this process does, after the interpreter's own places; its processes write to this
    process's standard output and error and end with it, unless `config.detached`.

    Args:
        config: what the root is told.
        orphan: it is not to be a child of this process: of those, somebody may see to it that they end with it.

    Raises:
        StartupError: what the environment says is wrong, or no process can be started.
    """
    told_gpus()  # here somebody hears of a mistake at once
    stdout_fd = None
    if not config.detached:
        with contextlib.suppress(OSError):
            stdout_fd = os.dup(1)
    # An empty entry means the current folder, which may be another one over there.
    sys_path = [os.path.abspath(path) for path in sys.path]
    driver_pid = config.driver_pid if config.detached or config.driver_pid is not None else os.getpid()
    config = msgspec.structs.replace(
        config, sys_path=[*config.sys_path, *sys_path], stdout_fd=stdout_fd, driver_pid=driver_pid
    )
    try:
        process = subprocess.Popen(
            # -P: what lies beside the program is no place to find modules.
            [
                *(("setsid", "--fork") if orphan and shutil.which("setsid") else ()),
                sys.executable,
                "-P",
                str(_ROOT_PROGRAM),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if config.detached else None,
            pass_fds=() if stdout_fd is None else (stdout_fd,),
            start_new_session=True,
            # Without the mark of the replica that this may be: such an instance outlives who starts it.
            env=orphans.without_mark(os.environ) if config.detached else None,
        )
    except OSError as error:
        raise StartupError(f"cannot start a root process with {sys.executable}: {error}") from error
    finally:
        if stdout_fd is not None:
            os.close(stdout_fd)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:  # it says itself why it ended
        process.stdin.write(msgspec.json.encode(config))
    return PendingRoot(process)


def launch(config: RootConfig, timeout_s: float = 30.0, *, orphan: bool = False) -> RootHandle:
    """Start an instance on this machine. When this returns, connections to it are accepted.

    `orphan`: see `begin_launch`. The handle knows nothing but its session then.

    Raises:
        StartupError: it cannot start. The message says why, and what to do.
    """
    return begin_launch(config, orphan=orphan).wait(timeout_s)


def stop_session(session: Session, timeout_s: float = 10.0) -> None:
    """End an instance that any process of this user has started, and wait until it has ended.

    After `timeout_s` seconds it is killed. Nothing happens if it has ended already; its files are removed in any case.
    """
    if not _asked_and_ended(session, timeout_s) and session_folder.root_lives(session.dir):
        with contextlib.suppress(ProcessLookupError):
            # Its children die with it.
            os.kill(session.root_pid, signal.SIGKILL)
        _asked_and_ended(session, 2.0)
    session_folder.remove(session.dir)


def end_instance(session: Session, timeout_s: float = 10.0) -> None:
    """End an instance that any process of this user has started, wherever it runs, and wait until it has ended."""
    if session.cluster:
        from headrace.engine.ray.cluster import stop

        stop(session, timeout_s)
    else:
        stop_session(session, timeout_s)


def _asked_and_ended(session: Session, timeout_s: float) -> bool:
    """Ask a root to end its instance, and wait for the end; False if it does not answer, or has not in time."""
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(timeout_s)
            connection.connect(os.fspath(session.root_socket))
            connection.sendall(frame(Shutdown(1)))
            # It answers, and then holds the connection until its last moment.
            while connection.recv(4096):
                connection.settimeout(max(0.001, deadline - time.monotonic()))
        except ConnectionResetError:
            return True
        except OSError:
            return False
    return True
