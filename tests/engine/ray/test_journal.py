"""The controller's journal in Ray's key-value store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from tests.engine.ray.conftest import Machines

from headrace.engine.protocol import JournalContents

if TYPE_CHECKING:
    from headrace.engine.ray.journal import KvJournal

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]
pytest.importorskip("ray")


@pytest.fixture
def journal(machines: Machines) -> Iterator[KvJournal]:
    from headrace.engine.ray import kv
    from headrace.engine.ray.journal import KvJournal

    assert not kv.keys("journal:")
    yield KvJournal()
    kv.delete_all()


def test_what_is_appended_is_loaded_in_order(journal: KvJournal) -> None:
    for number in range(1, 13):
        journal.append(number, b"%d" % number)
    assert journal.load() == JournalContents(0, None, [b"%d" % number for number in range(1, 13)])


def test_the_same_entry_once_more_changes_nothing(journal: KvJournal) -> None:
    journal.append(1, b"a")
    journal.append(1, b"a")
    assert journal.load().entries == [b"a"]


def test_an_entry_of_another_controller_is_not_overwritten(journal: KvJournal) -> None:
    journal.append(1, b"a")
    with pytest.raises(ConnectionError, match="taken over"):
        journal.append(1, b"b")
    assert journal.load().entries == [b"a"]


def test_a_snapshot_takes_the_place_of_the_entries_up_to_it(journal: KvJournal) -> None:
    from headrace.engine.ray import kv

    for number in (1, 2, 3):
        journal.append(number, b"%d" % number)
    journal.compact(2, b"1+2")
    assert journal.load() == JournalContents(2, b"1+2", [b"3"])
    journal.compact(3, b"1+2+3")
    assert journal.load() == JournalContents(3, b"1+2+3", [])
    assert len(kv.keys("journal:")) == 1


def test_who_was_away_for_a_compaction_cannot_append_into_the_past(journal: KvJournal) -> None:
    for number in (1, 2, 3):
        journal.append(number, b"%d" % number)
    journal.compact(3, b"all")
    with pytest.raises(ConnectionError, match="taken over"):
        journal.append(2, b"late")
    assert journal.load() == JournalContents(3, b"all", [])
