"""A store that is kept in a journal comes back from it as it was, wherever the controller that wrote it died."""

from __future__ import annotations

import asyncio
import copy
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.config.spec import DeployReply, DeployRequest
from headrace.controller import journaled_database
from headrace.controller import main as controller_main
from headrace.controller.autoscaling.capacity import Capacity
from headrace.controller.store import Store, StoredVersion
from headrace.engine.listeners import listen_unix
from headrace.engine.process import ProcessContext
from headrace.engine.protocol import JournalContents
from headrace.exceptions import StartupError
from headrace.wire.errors import WireError
from headrace.wire.rpc import RpcClient

from .conftest import Instance
from .fakes import SECRET, FakeEngine, application, deployment

NOWHERE = Path("/no/such/folder/state.db")


class Remembered:
    """A journal in memory, with all that it ever held in `states`: contents by the number of their last entry."""

    def __init__(self) -> None:
        self.snapshot: tuple[int, bytes | None] = (0, None)
        self.entries: dict[int, bytes] = {}
        self.states: list[JournalContents] = [self.load()]

    def load(self) -> JournalContents:
        number, snapshot = self.snapshot
        later = sorted(entry for entry in self.entries if entry > number)
        assert later == list(range(number + 1, number + 1 + len(later))), "entries have no gaps"
        return JournalContents(number, snapshot, [self.entries[entry] for entry in later])

    def append(self, number: int, entry: bytes) -> None:
        if self.entries.setdefault(number, entry) != entry or number <= self.snapshot[0]:
            raise ConnectionError(f"entry {number} is another controller's")
        self.states.append(self.load())

    def compact(self, number: int, snapshot: bytes) -> None:
        self.snapshot = (number, snapshot)
        self.states.append(self.load())
        for entry in sorted(self.entries):
            if entry <= number:
                del self.entries[entry]
                self.states.append(self.load())


class Replayed(Remembered):
    """Holds these contents."""

    def __init__(self, contents: JournalContents) -> None:
        super().__init__()
        self.snapshot = (contents.number, contents.snapshot)
        self.entries = {contents.number + 1 + i: entry for i, entry in enumerate(contents.entries)}


def everything(store: Store) -> dict[str, list[Any]]:
    """All rows of all tables, in their order."""
    tables = store._db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    found = {name: store._db.execute(f"SELECT rowid, * FROM {name} ORDER BY rowid").fetchall() for (name,) in tables}
    return {**found, "capacity of the store": [store.capacity]}


APPS = st.sampled_from(["one", "two", "three"])
DEPLOYMENTS = st.sampled_from(["Model", "Other"])
OUTCOMES = st.sampled_from(["SUCCEEDED", "FAILED", "DEPLOYING"])


@st.composite
def operations(draw: st.DrawFn) -> Callable[[Store], object]:
    app, name, number = draw(APPS), draw(DEPLOYMENTS), draw(st.integers(0, 5))
    spec = application(deployment(name, app, version=f"v{number}", code=b"\x00" * draw(st.integers(0, 300))), name=app)
    version = StoredVersion(
        good=draw(st.none() | st.just(spec.deployments[0])), halted=draw(st.none() | st.text()), reason=draw(st.text())
    )
    configs = draw(st.dictionaries(APPS, st.dictionaries(st.text(max_size=3), st.integers()), max_size=2))
    capacity = draw(st.just(Capacity()) | st.builds(Capacity, st.floats(0, 100), st.booleans()))
    outdated = draw(st.lists(st.tuples(APPS, DEPLOYMENTS), max_size=2))
    choices: list[Callable[[Store], object]] = [
        lambda store: store.put([spec], float(number), declared=bool(number % 2), outdated_targets=outdated),
        lambda store: store.put_builds(configs, capacity),
        lambda store: store.drop_build(app),
        lambda store: store.mark_deleting([app]),
        lambda store: store.remove(app),
        lambda store: store.conclude_deploy(app, number, draw_outcome, "why"),
        lambda store: store.put_version(app, name, version),
        lambda store: store.remove_version(app, name),
        lambda store: store.put_target(app, name, number),
        lambda store: store.remove_target(app, name),
    ]
    draw_outcome = draw(OUTCOMES)
    return draw(st.sampled_from(choices))


HISTORIES = st.lists(operations(), max_size=30)


@pytest.fixture(autouse=True, params=[3, 10_000], ids=lambda count: f"compacted each {count} entries")
def compact_after(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journaled_database, "COMPACT_ENTRIES", request.param)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HISTORIES)
def test_a_store_comes_back_as_it_was_from_any_moment_of_its_journal(history: list[Callable[[Store], object]]) -> None:
    journal = Remembered()
    store = Store(NOWHERE, journal)
    at: dict[int, dict[str, list[Any]]] = {0: everything(store)}
    for operation in history:
        operation(store)
        now = journal.load()
        at[now.number + len(now.entries)] = everything(store)
    for contents in journal.states:
        assert everything(Store(NOWHERE, Replayed(contents))) == at[contents.number + len(contents.entries)]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HISTORIES, st.randoms(use_true_random=False))
def test_a_controller_that_begins_anew_at_any_moment_goes_on_as_the_same(
    history: list[Callable[[Store], object]], chance: random.Random
) -> None:
    journal, never_ended = Remembered(), Store(NOWHERE, Remembered())
    store = Store(NOWHERE, journal)
    for operation in history:
        moment = chance.getstate()
        operation(store)
        chance.setstate(moment)
        operation(never_ended)
        if chance.random() < 0.4:
            store.close()
            store = Store(NOWHERE, journal)
    assert _without_times(everything(store)) == _without_times(everything(never_ended))


def _without_times(found: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The store looks at the clock when configs are put."""
    return {**found, "builds": [row[:3] for row in found["builds"]]}


class Unreliable(Remembered):
    """Loses the entry, or the answer, at the append that `left` counts down to."""

    def __init__(self, left: int, arrives: bool) -> None:
        super().__init__()
        self.left, self.arrives = left, arrives

    def append(self, number: int, entry: bytes) -> None:
        self.left -= 1
        if self.left >= 0 or self.arrives:
            super().append(number, entry)
        if self.left < 0:
            raise ConnectionError("no answer")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HISTORIES, st.integers(0, 20), st.booleans())
def test_a_write_without_an_answer_ends_the_controller_and_the_next_one_finds_all_of_it_or_nothing(
    history: list[Callable[[Store], object]], fails_at: int, arrives: bool
) -> None:
    journal, lost = Unreliable(fails_at, arrives), []
    store = Store(NOWHERE, journal, lambda: lost.append(True))
    before = everything(store)
    for operation in history:
        reference = Store(NOWHERE, Replayed(copy.deepcopy(journal.load())))
        before = everything(store)
        try:
            operation(store)
        except ConnectionError:
            operation(reference)
            break
    else:
        assert not lost
        return
    assert lost == [True]
    assert everything(store) == before, "what may not have been kept is not acted on"
    with pytest.raises(ConnectionError, match="can no longer be kept: no answer"):
        store.put_target("one", "Model", 7)
    found = everything(Store(NOWHERE, Replayed(journal.load())))
    assert _without_times(found) == _without_times(everything(reference) if arrives else before)
    assert lost == [True]


class Twice(Remembered):
    """Every message arrives twice."""

    def append(self, number: int, entry: bytes) -> None:
        super().append(number, entry)
        super().append(number, entry)

    def compact(self, number: int, snapshot: bytes) -> None:
        super().compact(number, snapshot)
        super().compact(number, snapshot)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HISTORIES)
def test_an_entry_that_arrives_twice_counts_once(history: list[Callable[[Store], object]]) -> None:
    journal = Twice()
    store = Store(NOWHERE, journal)
    for operation in history:
        operation(store)
    assert everything(Store(NOWHERE, journal)) == everything(store)


def test_a_controller_that_another_has_followed_writes_nothing_any_more() -> None:
    journal, lost = Remembered(), []
    old = Store(NOWHERE, journal, lambda: lost.append("old"))
    old.put([application()], 1.0, False)
    new = Store(NOWHERE, journal, lambda: lost.append("new"))
    new.put_target("app", "Model", 3)
    with pytest.raises(ConnectionError):
        old.put_target("app", "Model", 5)
    new.put_target("app", "Model", 4)
    assert lost == ["old"]
    assert Store(NOWHERE, journal).load_versions() == {("app", "Model"): StoredVersion(target=4)}


def test_a_transaction_that_fails_halfway_leaves_no_entry() -> None:
    journal = Remembered()
    store = Store(NOWHERE, journal)
    broken = application(name="broken")
    broken.runtime_env = {"unencodable": object()}
    with pytest.raises(TypeError):
        store.put([application(), broken], 1.0, False)
    assert journal.load() == JournalContents()
    store.put([application()], 1.0, False)
    assert list(Store(NOWHERE, journal).load()) == ["app"]


def test_a_compaction_that_fails_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Remembered()
    store = Store(NOWHERE, journal)

    def out_of_reach(number: int, snapshot: bytes) -> None:
        raise ConnectionError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(journaled_database, "COMPACT_ENTRIES", 1)
        patch.setattr(journal, "compact", out_of_reach)
        store.put_target("app", "Model", 1)
        store.put_target("app", "Model", 2)
        assert len(journal.entries) == 2
        patch.undo()
        patch.setattr(journaled_database, "COMPACT_ENTRIES", 1)
        store.put_target("app", "Model", 3)
    assert not journal.entries and journal.snapshot[0] == 3
    assert Store(NOWHERE, journal).load_versions() == {("app", "Model"): StoredVersion(target=3)}


def test_a_long_journal_is_compacted_though_it_has_few_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journaled_database, "COMPACT_ENTRIES", 10_000)
    journal = Remembered()
    store = Store(NOWHERE, journal)
    for number in range(8):
        store.put([application(deployment(code=bytes([number]) * 100_000, version=f"v{number}"))], 1.0, False)
    assert journal.snapshot[0] > 0 and len(journal.entries) < 8


def test_a_damaged_journal_is_refused_with_the_way_out() -> None:
    journal = Remembered()
    Store(NOWHERE, journal).put([application()], 1.0, False)
    journal.entries[1] = b"\xff"
    with pytest.raises(StartupError, match=r"store of the cluster cannot be read .* shut the instance down"):
        Store(NOWHERE, journal)


def test_a_journal_of_a_newer_format_is_refused() -> None:
    db = sqlite3.connect(":memory:")
    db.execute("PRAGMA user_version = 99")
    journal = Remembered()
    journal.snapshot = (1, db.serialize())
    with pytest.raises(StartupError, match="cluster has format 99"):
        Store(NOWHERE, journal)


async def test_a_controller_with_nothing_but_the_journal_adopts_what_runs(instance: Instance) -> None:
    await instance.stop()
    instance.engine.journal = Remembered()
    await instance.start()
    instance.controller.deploy([application(deployment(num_replicas=2))])
    await instance.until_status("HEALTHY")
    before = {replica.pid for replica in instance.engine.serving}
    await instance.stop()
    for file in instance.folder.glob("state.db*"):
        file.unlink()
    await instance.start()
    await instance.until_status("HEALTHY")
    assert {replica.pid for replica in instance.engine.serving} == before
    assert not list(instance.folder.glob("state.db*"))


journals: list[Unreliable] = []


async def make_engine(process: ProcessContext, config: object) -> FakeEngine:
    """An `EngineFactory`, whose journal fails at the second write."""
    engine = FakeEngine(process.session_dir)
    engine.journal = Unreliable(left=1, arrives=True)
    journals.append(engine.journal)
    return engine


async def test_a_controller_that_cannot_keep_its_state_ends_so_that_another_begins(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller_main, "configure_logging", lambda *_: None)
    address = str(folder / "controller.sock")
    process = ProcessContext(
        "controller", {"engine": f"{__name__}:make_engine"}, folder, SECRET, {"wire": listen_unix(Path(address))}
    )
    serving = asyncio.create_task(controller_main.serve(process))
    client = await RpcClient.connect(address, SECRET)
    await client.call(
        "deploy", DeployRequest(applications=[application(name="one", route_prefix="/1")]), type=DeployReply
    )
    with pytest.raises(WireError):
        await client.call("deploy", DeployRequest(applications=[application(name="two", route_prefix="/2")]))
    with pytest.raises(ConnectionError, match="can no longer be kept"):
        await asyncio.wait_for(serving, 10)
    assert list(Store(NOWHERE, Replayed(journals[-1].load())).load()) == ["one", "two"]
