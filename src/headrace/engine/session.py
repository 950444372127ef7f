"""The folder of a running instance: its secret, addresses and sockets; how instances are found, and swept up after.

    <sessions>/              $HEADRACE_SESSIONS, or <tmp>/headrace-<uid>/
        current              symlink to the instance that serves without a driver
        <session>/
            root.lock        locked by the root for as long as it lives
            agent.lock       on a cluster: locked by this machine's agent, which replaces the root
            secret           32 random bytes
            session.json     addresses, and what this machine is called
            root.sock, controller.sock, <replica>.sock, state.db, logs/
            controller.error why no controller can start, while none can
            controller.address   on a cluster: where the controller is
    /dev/shm/headrace-<session>/   large buffers, and a root.lock too: containers may share this folder alone

A file lock tells whether the root lives, and not its pid: the system lets go of the lock when the process is gone,
however it went, and neither reused pids nor pid namespaces (a `/tmp` that containers share) can mislead.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.exceptions import NotRunningError, StartupError

MAX_SOCKET_PATH = 103 if sys.platform == "darwin" else 107
"""Bytes that the path of a Unix socket may have."""

LONGEST_SOCKET_NAME = 24
"""Bytes that the file name of a socket in a session folder may have for certain."""

CONTROLLER_ERROR = "controller.error"
CONTROLLER_ADDRESS = "controller.address"
AGENT_LOCK = "agent.lock"

_SHARED_MEMORY = Path("/dev/shm")


def sessions_dir() -> Path:
    """The folder of all instances of this user. It need not exist yet."""
    chosen = os.environ.get("HEADRACE_SESSIONS")
    if chosen:
        return Path(chosen).absolute()
    return Path(os.environ.get("TMPDIR") or "/tmp") / f"headrace-{os.getuid()}"


@dataclass(frozen=True, slots=True)
class Session:
    """One instance, as its folder tells of it.

    Attributes:
        dir: the folder.
        secret: what proves to a peer that one belongs to the instance.
        root_pid: process at the root of the instance.
        http: host and port that the proxies serve, None without HTTP.
        rest: host and port of the REST API.
        started_at: seconds since the epoch.
        detached: it serves without a driver.
        engine: where its processes run: "local" for this machine, "ray" for a cluster of which this is one machine.
        node, zone: what this machine is called among the instance's.
        gate: host and port where other machines reach this one's sockets; None where there are none.
        cluster: where the cluster is, for its engine; "" on one machine.
    """

    dir: Path
    secret: bytes
    root_pid: int
    http: tuple[str, int] | None
    rest: tuple[str, int]
    started_at: float
    detached: bool
    engine: str = "local"
    node: str = ""
    zone: str = ""
    gate: tuple[str, int] | None = None
    cluster: str = ""

    @property
    def name(self) -> str:
        return self.dir.name

    @property
    def root_socket(self) -> Path:
        return self.dir / "root.sock"

    @property
    def controller_socket(self) -> Path:
        return self.dir / "controller.sock"

    @property
    def shm_dir(self) -> Path:
        return shm_dir(self.dir)

    @property
    def alive(self) -> bool:
        """Whether its root lives."""
        return is_alive(self.dir)

    @property
    def controller_error(self) -> str | None:
        """Why no controller can start here, and the way out; None where one can."""
        try:
            return (self.dir / CONTROLLER_ERROR).read_text()
        except OSError:
            return None

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Session:
        """Read a session folder. Whether the instance still lives is another question: `alive`.

        Raises:
            NotRunningError: it is not the folder of an instance, or not one of this user's.
        """
        path = Path(folder).resolve()
        try:
            data: dict[str, Any] = json.loads((path / "session.json").read_bytes())
            secret = (path / "secret").read_bytes()
            return Session(
                dir=path,
                secret=secret,
                root_pid=data["pid"],
                http=tuple(data["http"]) if data["http"] else None,
                rest=tuple(data["rest"]),
                started_at=data["started_at"],
                detached=data["detached"],
                # An instance that an earlier version of Headrace has started tells of none of these.
                engine=data.get("engine", "local"),
                node=data.get("node", ""),
                zone=data.get("zone", ""),
                gate=tuple(data["gate"]) if data.get("gate") else None,
                cluster=data.get("cluster", ""),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotRunningError(f"{path} is not the folder of a running instance: {error}") from error


def find_current() -> Session | None:
    """The instance that is meant when none is named; None if there is none.

    It is that of `$HEADRACE_ADDRESS` (a session folder) if this is set, or else the one that serves without a driver.

    Raises:
        NotRunningError: `$HEADRACE_ADDRESS` names no running instance.
    """
    address = os.environ.get("HEADRACE_ADDRESS")
    if address:
        session = Session.load(address)
        if not session.alive:
            raise NotRunningError(f"the instance that HEADRACE_ADDRESS names has ended: {address}")
        return session
    try:
        session = Session.load(sessions_dir() / "current")
    except NotRunningError:
        return None
    return session if session.alive else None


def shm_dir(folder: Path) -> Path:
    """Where the instance of a session folder keeps large buffers: in memory where the system has such a folder."""
    return _SHARED_MEMORY / f"headrace-{folder.name}" if _SHARED_MEMORY.is_dir() else folder / "shm"


def remove_buffers(folder: Path, pid: int) -> None:
    """Remove the large buffers that a process owned (`wire` names them after it), as it cannot if it was killed.

    Who looks into one keeps what it sees.
    """
    for buffer in shm_dir(folder).glob(f"{pid}-*"):
        with contextlib.suppress(OSError):
            buffer.unlink()


def socket_path(folder: Path, name: str) -> Path:
    """The path of the socket `name` in a session folder.

    Raises:
        StartupError: the path is too long for a Unix socket, or `name` leads out of the folder.
    """
    path = folder / name
    if path.parent != folder:
        raise StartupError(f"'{name}' is not a file name; a socket lies in the session folder itself")
    too_long = len(os.fsencode(path)) - MAX_SOCKET_PATH
    if too_long > 0:
        raise StartupError(
            f"the path of the socket {path} is {too_long} bytes too long (a Unix socket's path has at most "
            f"{MAX_SOCKET_PATH}); choose a shorter folder with HEADRACE_SESSIONS"
        )
    return path


def is_alive(folder: Path) -> bool:
    """Whether the instance of a session folder lives: its root, or on a cluster who replaces the root."""
    return root_lives(folder) or _is_locked(folder / AGENT_LOCK)


def root_lives(folder: Path) -> bool:
    """Whether the root of a session folder lives."""
    return _is_locked(folder / "root.lock")


def _is_locked(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDONLY)
    except PermissionError:
        return True  # another user's; whether it lives is not for us to know
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _hold_lock(folder: Path, name: str = "root.lock") -> int:
    """Mark a folder as a living root's until the file descriptor is closed. It is never seen unlocked."""
    new = folder / f".{name}.new"
    lock = os.open(new, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    new.replace(folder / name)
    return lock


def keep(folder: Path) -> list[int]:
    """Make a session folder for roots to come, one after the other, and mark it as alive meanwhile.

    Returns:
        The file descriptors that hold the locks.

    Raises:
        StartupError: the folder cannot be made.
    """
    try:
        _make_private(folder.parent, ours=folder.parent == sessions_dir() and "HEADRACE_SESSIONS" not in os.environ)
        with _only_one_at_a_time(folder.parent):
            socket_path(folder, "x" * LONGEST_SOCKET_NAME)
            folders = (folder, shm_dir(folder))
            for each in folders:
                _make_private(each, ours=True)
            return [_hold_lock(each, AGENT_LOCK) for each in folders]
    except OSError as error:
        raise StartupError(
            f"cannot make the session folder {folder}: {error}; choose another place with HEADRACE_SESSIONS"
        ) from error


def create(
    folder: Path | None = None, secret: bytes | None = None, keep: bool = False
) -> tuple[Path, bytes, list[int]]:
    """Make a session folder, and hold its lock.

    Args:
        folder: where; None for a new one among this user's.
        secret: the instance's; None for a new one.
        keep: take the place of a root that has died: sockets of processes that have outlived it stay.

    Returns:
        The folder, the secret, and the file descriptors that hold the locks.

    Raises:
        StartupError: the folder cannot be made, or is another instance's.
    """
    sessions = sessions_dir() if folder is None else folder.absolute().parent
    try:
        # A folder that the user named is taken as it is: it may be one that others use too.
        _make_private(sessions, ours=folder is None and "HEADRACE_SESSIONS" not in os.environ)
        with _only_one_at_a_time(sessions):
            chosen = sessions / secrets.token_hex(4) if folder is None else folder.absolute()
            socket_path(chosen, "x" * LONGEST_SOCKET_NAME)
            if root_lives(chosen) if keep else is_alive(chosen):
                raise StartupError(
                    f"another instance is running in {chosen}; choose another session folder, or stop it"
                )
            _make_private(chosen, ours=True)
            locks = [_hold_lock(chosen)]
        if not keep:
            for leftover in (chosen / "session.json", *chosen.glob("*.sock")):
                leftover.unlink(missing_ok=True)
        (chosen / "logs").mkdir(mode=0o700, exist_ok=True)
        _make_private(shm_dir(chosen), ours=True)
        locks.append(_hold_lock(shm_dir(chosen)))
        secret = secret if secret is not None else secrets.token_bytes(32)
        write_private(chosen / "secret", secret)
    except OSError as error:
        raise StartupError(
            f"cannot make a session folder in {sessions}: {error}; choose another folder with HEADRACE_SESSIONS"
        ) from error
    return chosen, secret, locks


def publish(session: Session) -> None:
    """Write `session.json`; from now on the instance can be found. One without a driver becomes the current one."""
    data = {
        "pid": session.root_pid,
        "http": session.http,
        "rest": session.rest,
        "started_at": session.started_at,
        "detached": session.detached,
        "engine": session.engine,
        "node": session.node,
        "zone": session.zone,
        "gate": session.gate,
        "cluster": session.cluster,
    }
    write_private(session.dir / "session.json", json.dumps(data).encode())
    # Machines of one cluster may in truth be one machine: the first of them is the current one.
    if session.detached and not (session.cluster and is_alive(session.dir.parent / "current")):
        new = session.dir / "current"
        new.symlink_to(session.dir)
        new.replace(session.dir.parent / "current")


def remove(folder: Path) -> None:
    """Remove all files of an instance, and the symlink that says it is the current one."""
    import shutil  # only at the end: starting must be quick

    with contextlib.suppress(OSError):
        current = folder.parent / "current"
        if current.is_symlink() and os.readlink(current) == str(folder):
            current.unlink()
    shutil.rmtree(shm_dir(folder), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def sweep() -> list[Path]:
    """Remove the folders of this user's instances whose root is dead, and their shared memory.

    Returns:
        The folders removed.
    """
    import shutil

    sessions = sessions_dir()
    swept = []
    try:
        with _only_one_at_a_time(sessions):
            for lock in sessions.glob("*/root.lock"):
                folder = lock.parent
                if not folder.is_symlink() and not is_alive(folder):
                    remove(folder)
                    swept.append(folder)
        # Buffers of sessions whose folder is gone, or lies where this process cannot see it.
        for lock in _SHARED_MEMORY.glob("headrace-*/root.lock"):
            if lock.lstat().st_uid == os.getuid() and not is_alive(lock.parent):
                shutil.rmtree(lock.parent, ignore_errors=True)
    except OSError:
        pass  # what cannot be swept today is swept another day
    return swept


@contextlib.contextmanager
def _only_one_at_a_time(sessions: Path) -> Iterator[None]:
    """Keeps a sweep from taking a folder between its making and its locking for a dead one."""
    lock = os.open(sessions / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _make_private(folder: Path, ours: bool) -> None:
    """Make a folder that nobody else can look into. In `/tmp` anybody could have made it first."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        if not ours:
            return
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise StartupError(
                f"{folder} is not a folder; remove it, or choose another with HEADRACE_SESSIONS"
            ) from None
        if status.st_uid != os.getuid():
            raise StartupError(
                f"{folder} belongs to another user (uid {status.st_uid}); choose another folder with HEADRACE_SESSIONS"
            ) from None
        if stat.S_IMODE(status.st_mode) & 0o077:
            folder.chmod(0o700)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only this user can read, that is there in full or not at all."""
    new = path.with_name(f".{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
    new.replace(path)
