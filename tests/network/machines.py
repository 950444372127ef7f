"""Two machines and the network between them, made of network namespaces of this one: a cable that can be cut."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_CLONE_NEWNET = 0x40000000
_TAG = f"hr{os.getpid() % 100000}"

HERE_IP = "10.77.0.1"
THERE_IP = "10.77.0.2"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


class Cable:
    """Between the two machines. Cut, it swallows what is sent, and neither end's own interface goes down: as when a
    switch fails, or a machine loses its power."""

    def cut(self) -> None:
        _ip("-n", f"{_TAG}m", "link", "set", "dev", "side-b", "nomaster")

    def mend(self) -> None:
        _ip("-n", f"{_TAG}m", "link", "set", "dev", "side-b", "master", "switch")


def _enter(path: str) -> None:
    """Move this thread into a network namespace: sockets that it opens from now on belong there."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def two_machines() -> Iterator[Cable]:
    """This thread is on the first of them until the end. `there` starts processes on the second."""
    if os.geteuid() != 0 or shutil.which("ip") is None or not sys.platform.startswith("linux"):
        pytest.skip("making network namespaces takes Linux, root and iproute2")
    a, b, middle = f"{_TAG}a", f"{_TAG}b", f"{_TAG}m"
    home = f"/proc/{os.getpid()}/task/{_thread()}/ns/net"
    kept = os.open(home, os.O_RDONLY)
    try:
        try:
            for name in (a, b, middle):
                _ip("netns", "add", name)
            _ip("-n", middle, "link", "add", "switch", "type", "bridge")
            for name, side, address in ((a, "side-a", HERE_IP), (b, "side-b", THERE_IP)):
                _ip("-n", name, "link", "add", "eth", "type", "veth", "peer", "name", side, "netns", middle)
                _ip("-n", middle, "link", "set", "dev", side, "master", "switch", "up")
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth")
                _ip("-n", name, "link", "set", "eth", "up")
                _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", middle, "link", "set", "switch", "up")
            _enter(f"/run/netns/{a}")
        except (subprocess.CalledProcessError, OSError) as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        yield Cable()
    finally:
        _enter(f"/proc/self/fd/{kept}")
        os.close(kept)
        for name in (a, b, middle):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)


def _thread() -> int:
    import threading

    return threading.get_native_id()


@contextlib.contextmanager
def folders() -> Iterator[tuple[Path, Path]]:
    """The session folders of the two."""
    # Not pytest's own: a Unix socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="hr-") as made:
        both = Path(made) / f"{_TAG}a", Path(made) / f"{_TAG}b"
        for folder in both:
            folder.mkdir()
        yield both
    for folder in both:
        shutil.rmtree(f"/dev/shm/headrace-{folder.name}", ignore_errors=True)


@contextlib.contextmanager
def there(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `process.py` with these arguments on the second machine; it is killed at the end."""
    yield from _running(["ip", "netns", "exec", f"{_TAG}b"], arguments)


@contextlib.contextmanager
def here(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The same on the first."""
    yield from _running([], arguments)


def _running(prefix: list[str], arguments: tuple[str, ...]) -> Iterator[subprocess.Popen[bytes]]:
    command = [*prefix, sys.executable, str(Path(__file__).with_name("process.py")), *arguments]
    tests = str(Path(__file__).parent.parent)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": tests})
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
