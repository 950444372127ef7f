"""What is wanted: written before it is acted on, read when a controller starts again.

SQLite. On one machine a file in WAL mode: a crash of the process loses nothing; a crash of the machine loses at most
the last moments, and with the machine the replicas are gone too. Where the next controller may come up on another
machine, the file is of no use, and a journal takes its place.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from headrace.config.spec import ApplicationSpec, DeploymentSpec, DeployRecord
from headrace.controller import deploys
from headrace.controller.autoscaling.capacity import Capacity
from headrace.controller.journaled_database import JournaledDatabase, rebuilt
from headrace.engine.protocol import Journal
from headrace.exceptions import StartupError

FORMAT = 1
"""Version of the tables below, kept in `PRAGMA user_version`."""

_TABLES = """
CREATE TABLE applications (
    name TEXT PRIMARY KEY, spec BLOB NOT NULL, deployed_at REAL NOT NULL, declared INTEGER NOT NULL,
    deleting INTEGER NOT NULL DEFAULT 0
) STRICT;
-- A config that was accepted and is not built yet.
CREATE TABLE builds (name TEXT PRIMARY KEY, config TEXT NOT NULL, asked_at REAL NOT NULL) STRICT;
-- The version of a deployment that last ran in full number, and the one that was given up, if any.
CREATE TABLE versions (
    app TEXT NOT NULL, deployment TEXT NOT NULL, good BLOB, halted TEXT, reason TEXT,
    PRIMARY KEY (app, deployment)
) STRICT;
"""

_LATER_TABLES = """
-- How many replicas autoscaling, or an external scaler, wanted last.
CREATE TABLE IF NOT EXISTS targets (
    app TEXT NOT NULL, deployment TEXT NOT NULL, num_replicas INTEGER NOT NULL, PRIMARY KEY (app, deployment)
) STRICT;
-- The percentage of all replicas that is wanted, and whether it is on its way up: one row, or none for all of them.
CREATE TABLE IF NOT EXISTS capacity (
    one INTEGER PRIMARY KEY CHECK (one = 1), percent REAL NOT NULL, grows INTEGER NOT NULL
) STRICT;
-- The last deploys of each application, to return to.
CREATE TABLE IF NOT EXISTS deploys (
    app TEXT NOT NULL, number INTEGER NOT NULL, spec BLOB NOT NULL, deployed_at REAL NOT NULL,
    declared INTEGER NOT NULL, version TEXT NOT NULL, changes TEXT NOT NULL, restores INTEGER, outcome TEXT NOT NULL,
    message TEXT NOT NULL DEFAULT '', PRIMARY KEY (app, number)
) STRICT;
"""
"""Tables that stores of format 1 may lack."""


class StoredApplication(msgspec.Struct, kw_only=True, frozen=True):
    """`declared`: came through the declarative REST API. `deployed_at`: Unix time, seconds."""

    spec: ApplicationSpec
    deployed_at: float
    declared: bool
    deleting: bool


class StoredVersion(msgspec.Struct, kw_only=True, frozen=True):
    """`good`: the last deployment that ran in full number. `halted`: the version that was given up, for `reason`.

    `target`: how many replicas autoscaling, or an external scaler, wanted last; None if it never changed that.
    """

    good: DeploymentSpec | None = None
    halted: str | None = None
    reason: str = ""
    target: int | None = None


class Store:
    """Desired state in one file, or in a journal.

    Args:
        path: the file.
        journal: what is used in place of the file; None for the file.
        on_lost: called when the journal cannot be written any more. Every write fails from then on, and the controller
            has to start anew.

    Raises:
        StartupError: from the constructor, when the state is damaged, of a newer format, or cannot be opened.
        ConnectionError: the journal is out of reach.
    """

    def __init__(self, path: Path, journal: Journal | None = None, on_lost: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self._name, self._way_out = f"state store {path}", "move the file away"
        if journal is not None:
            self._name, self._way_out = "state store of the cluster", "shut the instance down and start it again"
        self._encoder = msgspec.msgpack.Encoder()
        with self._refusing():
            self._db = self._open(path) if journal is None else self._open_journal(journal, on_lost)
            self.load()
            found = self._db.execute("SELECT percent, grows FROM capacity").fetchone()
            self._capacity = Capacity() if found is None else Capacity(found[0], bool(found[1]))

    def _open(self, path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, isolation_level=None, timeout=5)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        self._prepare(db)
        return db

    def _open_journal(self, journal: Journal, on_lost: Callable[[], None]) -> JournaledDatabase:
        contents = journal.load()
        return JournaledDatabase(rebuilt(contents, self._prepare), journal, contents, on_lost)

    def _prepare(self, db: sqlite3.Connection) -> None:
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {FORMAT}; COMMIT;")
        elif found != FORMAT:
            raise StartupError(
                f"the {self._name} has format {found}, and this version of Headrace reads format {FORMAT}: start the "
                f"version that wrote it, or {self._way_out} to begin with no applications"
            )
        db.executescript(_LATER_TABLES)
        check = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if check != "ok":
            raise sqlite3.DatabaseError(check)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, msgspec.MsgspecError, json.JSONDecodeError) as error:
            raise StartupError(
                f"the {self._name} cannot be read ({error}): {self._way_out} to begin with no applications, then "
                "deploy them again; running replicas of the old ones will be stopped"
            ) from error

    def close(self) -> None:
        self._db.close()

    def load(self) -> dict[str, StoredApplication]:
        """All applications, in the order in which they were first deployed."""
        rows = self._db.execute("SELECT spec, deployed_at, declared, deleting FROM applications ORDER BY rowid")
        decoder = msgspec.msgpack.Decoder(ApplicationSpec)
        found = (
            StoredApplication(
                spec=decoder.decode(spec), deployed_at=at, declared=bool(declared), deleting=bool(deleting)
            )
            for spec, at, declared, deleting in rows
        )
        return {application.spec.name: application for application in found}

    def load_builds(self) -> dict[str, dict[str, Any]]:
        """Configs that were accepted and are not built yet, by application."""
        rows = self._db.execute("SELECT name, config FROM builds ORDER BY asked_at")
        return {name: json.loads(config) for name, config in rows}

    def load_versions(self) -> dict[tuple[str, str], StoredVersion]:
        """By application and deployment."""
        rows = self._db.execute("SELECT app, deployment, good, halted, reason FROM versions")
        targets = {
            (app, name): target
            for app, name, target in self._db.execute("SELECT app, deployment, num_replicas FROM targets")
        }
        never_ran = {key: StoredVersion(target=target) for key, target in targets.items()}
        return never_ran | {
            (app, name): StoredVersion(
                good=msgspec.msgpack.decode(good, type=DeploymentSpec) if good is not None else None,
                halted=halted,
                reason=reason or "",
                target=targets.get((app, name)),
            )
            for app, name, good, halted, reason in rows
        }

    def put(
        self,
        specs: list[ApplicationSpec],
        deployed_at: float,
        declared: bool,
        restores: int | None = None,
        outdated_targets: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Want these applications; all of them or, after a crash, none.

        Args:
            restores: the deploy that is brought back by this one.
            outdated_targets: deployments (and their applications before them) whose stored target counts no more.
        """
        with self._transaction():
            for app, deployment in outdated_targets:
                self.remove_target(app, deployment)
            for spec in specs:
                self._record_deploy(spec, deployed_at, declared, restores)
                self._db.execute(
                    "INSERT INTO applications VALUES (?, ?, ?, ?, 0) ON CONFLICT (name) DO UPDATE SET "
                    "spec = excluded.spec, deployed_at = excluded.deployed_at, declared = excluded.declared, "
                    "deleting = 0",
                    (spec.name, self._encoder.encode(spec), deployed_at, int(declared)),
                )
                self._db.execute("DELETE FROM builds WHERE name = ?", (spec.name,))

    @property
    def capacity(self) -> Capacity:
        """The instance's target capacity."""
        return self._capacity

    def put_builds(self, configs: dict[str, dict[str, Any]], capacity: Capacity = Capacity()) -> None:  # noqa: B008
        """Want what these configs lead to, at this capacity; replaces whatever was waiting to be built."""
        with self._transaction():
            self._db.execute("DELETE FROM capacity")
            if capacity.percent is not None:
                self._db.execute("INSERT INTO capacity VALUES (1, ?, ?)", (capacity.percent, int(capacity.grows)))
            self._db.execute("DELETE FROM builds")
            for name, config in configs.items():
                self._db.execute("INSERT INTO builds VALUES (?, ?, ?)", (name, json.dumps(config), time.time()))
        self._capacity = capacity

    def drop_build(self, name: str) -> None:
        self._db.execute("DELETE FROM builds WHERE name = ?", (name,))

    def mark_deleting(self, names: list[str]) -> None:
        with self._transaction():
            for name in names:
                self._db.execute("UPDATE applications SET deleting = 1 WHERE name = ?", (name,))
                self._db.execute("DELETE FROM builds WHERE name = ?", (name,))

    def remove(self, name: str) -> None:
        """Forget an application whose last replica is gone."""
        with self._transaction():
            self._db.execute("DELETE FROM applications WHERE name = ?", (name,))
            self._db.execute("DELETE FROM versions WHERE app = ?", (name,))
            self._db.execute("DELETE FROM targets WHERE app = ?", (name,))
            self._db.execute("DELETE FROM deploys WHERE app = ?", (name,))

    def _record_deploy(self, spec: ApplicationSpec, deployed_at: float, declared: bool, restores: int | None) -> None:
        last = self.last_deploy(spec.name)
        version = deploys.version_of(spec)
        if last is not None and last.version == version and last.outcome in (deploys.DEPLOYING, deploys.SUCCEEDED):
            return
        number = 1 if last is None else last.number + 1
        if last is not None and last.outcome == deploys.DEPLOYING:
            self.conclude_deploy(spec.name, last.number, deploys.REPLACED, "")
        old = None if last is None else self.deployed_spec(spec.name, last.number)
        self._db.execute(
            "INSERT INTO deploys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '')",
            (
                spec.name,
                number,
                self._encoder.encode(spec),
                deployed_at,
                int(declared),
                version,
                deploys.changes(old, spec),
                restores,
                deploys.DEPLOYING,
            ),
        )
        self._db.execute(
            "DELETE FROM deploys WHERE app = ?1 AND number <= ?2 AND number IS NOT "
            "(SELECT max(number) FROM deploys WHERE app = ?1 AND outcome = ?3)",
            (spec.name, number - deploys.KEPT, deploys.SUCCEEDED),
        )

    def deploys(self, name: str, limit: int = -1) -> list[DeployRecord]:
        """What is remembered of an application's deploys, newest first."""
        rows = self._db.execute(
            "SELECT number, deployed_at, version, outcome, message, changes, restores, declared FROM deploys "
            "WHERE app = ? ORDER BY number DESC LIMIT ?",
            (name, limit),
        )
        return [
            DeployRecord(
                number=number,
                deployed_at=at,
                version=version,
                outcome=outcome,
                message=message,
                changes=changes,
                restores=restores,
                declared=bool(declared),
            )
            for number, at, version, outcome, message, changes, restores, declared in rows
        ]

    def last_deploy(self, name: str) -> DeployRecord | None:
        """The application's current deploy."""
        return next(iter(self.deploys(name, limit=1)), None)

    def deployed_spec(self, name: str, number: int) -> ApplicationSpec:
        """What a remembered deploy deployed."""
        row = self._db.execute("SELECT spec FROM deploys WHERE app = ? AND number = ?", (name, number)).fetchone()
        return msgspec.msgpack.decode(row[0], type=ApplicationSpec)

    def conclude_deploy(self, name: str, number: int, outcome: str, message: str) -> None:
        """What has become of a deploy."""
        self._db.execute(
            "UPDATE deploys SET outcome = ?, message = ? WHERE app = ? AND number = ?", (outcome, message, name, number)
        )

    def put_version(self, app: str, deployment: str, version: StoredVersion) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO versions VALUES (?, ?, ?, ?, ?)",
            (
                app,
                deployment,
                self._encoder.encode(version.good) if version.good is not None else None,
                version.halted,
                version.reason,
            ),
        )

    def remove_version(self, app: str, deployment: str) -> None:
        with self._transaction():
            self._db.execute("DELETE FROM versions WHERE app = ? AND deployment = ?", (app, deployment))
            self.remove_target(app, deployment)

    def remove_target(self, app: str, deployment: str) -> None:
        self._db.execute("DELETE FROM targets WHERE app = ? AND deployment = ?", (app, deployment))

    def put_target(self, app: str, deployment: str, num_replicas: int) -> None:
        """Want so many replicas of a deployment that scales itself, or is scaled from outside."""
        self._db.execute("INSERT OR REPLACE INTO targets VALUES (?, ?, ?)", (app, deployment, num_replicas))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
