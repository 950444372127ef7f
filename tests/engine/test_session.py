"""The session folder: what it holds, who can look into it, how it is found and swept."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.instances import ask, config, until
from headrace.engine import session
from headrace.engine.local import RootHandle, launch, stop_session
from headrace.engine.session import Session, find_current
from headrace.exceptions import NotRunningError, StartupError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def left_behind() -> Path:
    """The session folder of a root that was killed."""
    dead, _secret, locks = session.create()
    (session.shm_dir(dead) / "buffer").write_bytes(b"x")
    for lock in locks:
        os.close(lock)
    return dead


@pytest.fixture
def detached(sessions: Path) -> Iterator[Session]:
    """An instance without a driver."""
    handle = launch(config(detached=True))
    yield handle.session
    handle.stop()


def test_only_its_user_can_look_into_it(root: RootHandle) -> None:
    folder = root.session.dir
    assert mode(folder) == 0o700
    assert mode(folder / "logs") == 0o700
    assert mode(root.session.shm_dir) == 0o700
    for name in ("secret", "session.json", "root.sock", "controller.sock", "root.lock"):
        assert mode(folder / name) == 0o600, name


def test_it_tells_how_to_reach_the_instance(root: RootHandle) -> None:
    loaded = Session.load(root.session.dir)
    assert loaded == root.session
    assert loaded.alive
    assert loaded.root_pid == root.pid
    assert len(loaded.secret) == 32
    assert loaded.http is not None
    assert loaded.http[0] == "127.0.0.1"
    assert loaded.rest[1] not in (0, loaded.http[1])


def test_every_instance_has_a_secret_of_its_own(start: Callable[..., RootHandle]) -> None:
    assert start().session.secret != start().session.secret


def test_a_folder_of_something_else_is_no_session(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="is not the folder of a running instance"):
        Session.load(tmp_path)
    (tmp_path / "session.json").write_text("[]")
    (tmp_path / "secret").write_text("")
    with pytest.raises(NotRunningError):
        Session.load(tmp_path)


def test_an_instance_with_a_driver_is_not_the_current_one(root: RootHandle) -> None:
    assert find_current() is None


def test_an_instance_without_a_driver_is_the_current_one_while_it_lives(detached: Session, sessions: Path) -> None:
    current = find_current()
    assert current is not None
    assert current == detached
    assert (sessions / "current").is_symlink()
    stop_session(detached)
    assert find_current() is None
    assert not (sessions / "current").is_symlink()


def test_one_instance_can_be_chosen_by_its_folder(root: RootHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_ADDRESS", str(root.session.dir))
    assert find_current() == root.session
    root.stop()
    with pytest.raises(NotRunningError):
        find_current()


def test_what_dead_instances_left_is_swept_by_the_next_and_what_lives_is_not(
    start: Callable[..., RootHandle], sessions: Path
) -> None:
    alive = start()
    dead = left_behind()
    (sessions / "notes").mkdir()  # not ours
    ask(start().session.controller_socket)
    until(lambda: not dead.exists() and not session.shm_dir(dead).exists())
    assert alive.session.dir.exists()
    assert (sessions / "notes").exists()


def test_buffers_are_swept_also_when_the_session_folder_is_gone(sessions: Path) -> None:
    dead = left_behind()
    shutil.rmtree(dead)
    alive, _secret, locks = session.create()
    assert session.sweep() == []
    assert not session.shm_dir(dead).exists()
    assert session.shm_dir(alive).exists()
    for lock in locks:
        os.close(lock)
    assert session.sweep() == [alive]


def test_a_path_too_long_for_sockets_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADRACE_SESSIONS", str(tmp_path / ("x" * 90)))
    with pytest.raises(StartupError, match=r"too long .* choose a shorter folder with HEADRACE_SESSIONS"):
        launch(config())


def test_a_folder_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HEADRACE_SESSIONS", str(tmp_path / "file" / "x"))
    with pytest.raises(StartupError, match=r"cannot make a session folder in .*file"):
        launch(config())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_that_another_user_made_first_is_not_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HEADRACE_SESSIONS", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    planted = tmp_path / f"headrace-{os.getuid()}"
    planted.mkdir()
    os.chown(planted, 12345, 12345)
    with pytest.raises(StartupError, match="belongs to another user"):
        launch(config())


def test_a_chosen_folder_is_used_unless_another_instance_runs_in_it(
    start: Callable[..., RootHandle], sessions: Path
) -> None:
    folder = sessions / "mine"
    root = start(session_dir=str(folder))
    assert root.session.dir == folder
    with pytest.raises(StartupError, match="another instance is running in"):
        launch(config(session_dir=str(folder)))
    assert root.session.alive
    root.stop()
    assert start(session_dir=str(folder)).session.alive
