"""py-spy, which reads the stacks of a process from outside: also of one that is stopped, or whose code in C keeps the
interpreter's lock."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from headrace.cli.process_target import Target
from headrace.exceptions import ConfigError, HeadraceError

_NOT_PERMITTED = ("permission denied", "operation not permitted", "eperm")


def find_py_spy() -> str | None:
    """Path of the program: of this environment, or on the PATH. None if it is not installed."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("py-spy")


def needed_py_spy() -> str:
    """Path of the program.

    Raises:
        ConfigError: it is not installed.
    """
    program = find_py_spy()
    if program is None:
        raise ConfigError("this needs py-spy, which is not installed: pip install 'headrace[debug]'")
    return program


def local_pid(target: Target, own_node: str | None) -> int:
    """The pid, on this machine.

    Args:
        own_node: what this machine is called; None if it is no machine of the instance.

    Raises:
        ConfigError: the process is on another machine, or has ended.
    """
    if own_node is None:
        where = f"on {target.node}, " if target.node else "on another machine, "
        raise ConfigError(f"{target} runs {where}and this machine is none of the instance's; run this command there")
    if target.node != own_node:
        raise ConfigError(f"{target}: this is {own_node or 'another machine'}; run this command on {target.node}")
    if target.pid is None or not _lives(target.pid):
        raise ConfigError(f"{target} has ended, or runs in a container with process ids of its own; run it in there")
    return target.pid


def dump(program: str, pid: int) -> str:
    """The stacks of all threads of a process.

    Raises:
        HeadraceError: they cannot be read; the message says why.
    """
    # Without pausing it: who is stopped already cannot be, and who does not answer is not at many places in turn.
    return _run([program, "dump", "--nonblocking", "--pid", str(pid)], pid, 60.0)


def record(
    program: str, pid: int, seconds: float, rate: int, format: str, native: bool, idle: bool, output: Path
) -> None:
    """Sample a process and write a profile.

    Args:
        seconds: for how long.
        rate: samples per second.
        format: `flamegraph` or `speedscope`.
        native: with frames of C, C++ and Cython.
        idle: with threads that wait.
        output: the file.

    Raises:
        HeadraceError: it cannot be sampled; the message says why.
    """
    options = ["--pid", str(pid), "--rate", str(rate), "--format", format, "--output", str(output)]
    flags = [*(["--native"] if native else []), *(["--idle"] if idle else [])]
    # py-spy takes whole seconds.
    _run([program, "record", *options, "--duration", str(max(1, round(seconds))), *flags], pid, seconds + 60.0)


def _run(command: list[str], pid: int, within_s: float) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=within_s)
    except subprocess.TimeoutExpired:
        raise HeadraceError(f"py-spy has not answered within {within_s:.0f} s") from None
    except OSError as error:
        raise HeadraceError(f"py-spy cannot be run: {error}") from None
    if done.returncode == 0:
        return done.stdout
    raise _failure(done.stderr.strip() or done.stdout.strip(), pid)


def _failure(said: str, pid: int) -> HeadraceError:
    if any(text in said.lower() for text in _NOT_PERMITTED):
        return HeadraceError(
            f"the system does not permit to look into process {pid}. One of these helps:\n"
            "  - run this command as root: sudo env PATH=$PATH HEADRACE_SESSIONS=… headrace …\n"
            "  - until the next boot: sudo sysctl kernel.yama.ptrace_scope=0\n"
            "  - in a container: docker run --cap-add SYS_PTRACE, or in Kubernetes "
            "securityContext.capabilities.add: [SYS_PTRACE]"
        )
    if not _lives(pid):
        return HeadraceError(f"process {pid} has ended meanwhile")
    lines = said.splitlines() or ["it says nothing"]
    why = next((line for line in lines if line.startswith("Error")), lines[-1])
    return HeadraceError(f"py-spy failed: {why}")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
