"""What is said where a process cannot be looked into from outside. The program is one that does what py-spy would."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace.cli.process_target import Target
from headrace.cli.py_spy import dump, local_pid, needed_py_spy
from headrace.exceptions import ConfigError, HeadraceError


def program(folder: Path, script: str) -> str:
    path = folder / "py-spy"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_system_that_does_not_permit_it_is_said_with_the_ways_out(tmp_path: Path) -> None:
    said = "echo 'Permission Denied: Try running again with elevated permissions' >&2; exit 1"
    with pytest.raises(HeadraceError) as refused:
        dump(program(tmp_path, said), os.getpid())
    assert all(way in str(refused.value) for way in ("sudo", "ptrace_scope", "SYS_PTRACE"))


def test_of_a_long_error_the_line_that_says_it_is_told(tmp_path: Path) -> None:
    said = "printf 'Error: Failed to find python version\\n\\nCaused by:\\n  0: main\\n' >&2; exit 1"
    with pytest.raises(HeadraceError, match=r"^py-spy failed: Error: Failed to find python version$"):
        dump(program(tmp_path, said), os.getpid())


def test_a_process_that_ends_meanwhile_is_said_to_have_ended(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="has ended meanwhile"):
        dump(program(tmp_path, "exit 1"), 2**22 + 1)


def test_what_is_not_installed_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match=r"pip install 'headrace\[debug\]'"):
        needed_py_spy()


@pytest.mark.parametrize(
    ("node", "own", "text"),
    [("gpu2", "gpu1", "run this command on gpu2"), ("gpu2", None, "runs on gpu2, and this machine is none")],
)
def test_a_process_on_another_machine_is_said_to_be_there(node: str, own: str | None, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        local_pid(Target("replicas", "a#b#ccccc", os.getpid(), node), own)


def test_a_process_that_has_ended_is_said_to_have() -> None:
    with pytest.raises(ConfigError, match="has ended"):
        local_pid(Target("replicas", "a#b#ccccc", 2**22 + 1, "here"), "here")


def test_a_process_of_this_machine_is_found() -> None:
    assert local_pid(Target("controller", "", os.getpid(), "here"), "here") == os.getpid()
