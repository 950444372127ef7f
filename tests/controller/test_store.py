"""What is wanted survives a crash, and a damaged store is refused with the way out."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from headrace.controller.store import Store, StoredVersion
from headrace.exceptions import StartupError

from .fakes import application, deployment


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def test_applications_come_back_as_they_were_put(path: Path) -> None:
    spec = application(deployment(code=b"\x00pickle"), runtime_env={"env_vars": {"A": "1"}})
    Store(path).put([spec], deployed_at=12.5, declared=True)  # not closed: a crash
    found = Store(path).load()["app"]
    assert found.spec == spec
    assert (found.deployed_at, found.declared, found.deleting) == (12.5, True, False)


def test_applications_keep_their_order_when_one_is_replaced(path: Path) -> None:
    store = Store(path)
    store.put([application(name="b"), application(name="a")], 1.0, False)
    store.put([application(name="b")], 2.0, False)
    assert list(Store(path).load()) == ["b", "a"]


def test_a_deletion_is_remembered_until_it_is_done_and_undone_by_a_deploy(path: Path) -> None:
    store = Store(path)
    store.put([application()], 1.0, False)
    store.mark_deleting(["app"])
    assert Store(path).load()["app"].deleting
    store.put([application()], 2.0, False)
    assert not Store(path).load()["app"].deleting
    store.remove("app")
    assert Store(path).load() == {}


def test_versions_and_pending_builds_come_back(path: Path) -> None:
    store = Store(path)
    version = StoredVersion(good=deployment(), halted="v2", reason="ValueError")
    store.put_version("app", "Model", version)
    store.put_builds({"app": {"import_path": "a:b"}})
    again = Store(path)
    assert again.load_versions() == {("app", "Model"): version}
    assert again.load_builds() == {"app": {"import_path": "a:b"}}
    again.put([application()], 1.0, True)
    assert again.load_builds() == {}


def test_all_applications_of_a_deploy_are_stored_or_none(path: Path) -> None:
    store = Store(path)
    broken = application(name="broken")
    broken.runtime_env = {"unencodable": object()}
    with pytest.raises(TypeError):
        store.put([application(), broken], 1.0, False)
    assert store.load() == {}


@pytest.mark.parametrize(
    "damage", [b"this is not a database at all, not even a little bit" * 50, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_damaged_store_is_refused_with_the_way_out(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)
    with pytest.raises(StartupError, match=r"state\.db cannot be read .* move the file away"):
        Store(path)


def test_a_record_that_cannot_be_decoded_is_refused_with_the_way_out(path: Path) -> None:
    store = Store(path)
    store.put([application()], 1.0, False)
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE applications SET spec = x'ff'")
    with pytest.raises(StartupError, match="move the file away"):
        Store(path)


def test_a_store_of_a_newer_format_is_refused(path: Path) -> None:
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StartupError, match="format 99"):
        Store(path)
