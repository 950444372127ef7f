from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace.llm.generation.batching.scheduler import Scheduler
from headrace.llm.generation.batching.sequence import RunningSequence
from headrace.llm.generation.token_engine import SamplingParameters


def _sequence(prompt_tokens: int = 1) -> RunningSequence:
    return RunningSequence([1] * prompt_tokens, SamplingParameters(max_tokens=9), lambda step: None, frozenset())


class Rows:
    """What is kept for each row, as a cache keeps it: whatever was copied or written there last."""

    def __init__(self) -> None:
        self.kept: dict[int, RunningSequence] = {}
        self.forgotten: list[RunningSequence] = []

    def move(self, source: int, target: int, tokens: int) -> None:
        assert tokens == self.kept[source].computed
        self.kept[target] = self.kept[source]

    def forget(self, sequence: RunningSequence) -> None:
        self.forgotten.append(sequence)


_events = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 12)),
        st.tuples(st.just("read"), st.integers(1, 6)),
        st.tuples(st.just("end"), st.sets(st.integers(0, 4))),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
    ),
    max_size=60,
)


@given(_events, st.integers(1, 5))
def test_rows_stay_those_of_their_requests_whoever_joins_and_leaves(events: Any, max_sequences: int) -> None:
    rows = Rows()
    scheduler = Scheduler(max_sequences, rows.move, rows.forget)
    added: list[RunningSequence] = []
    left: list[RunningSequence] = []

    for kind, value in events:
        if kind == "add":
            added.append(_sequence(value))
            scheduler.add(added[-1])
        elif kind == "read":
            chunk = scheduler.next_chunk(value)
            if chunk is not None:
                assert chunk.stop - chunk.start <= value and chunk.start == chunk.sequence.computed
                chunk.sequence.computed = chunk.stop
                rows.kept[chunk.row] = chunk.sequence
        elif kind == "end":
            ended = {id(scheduler.running[row]) for row in value if row < len(scheduler.running)}
            left += [sequence for sequence in scheduler.running if id(sequence) in ended]
            scheduler.remove_ended(lambda sequence, ended=ended: id(sequence) in ended)
        elif added and not added[value % len(added)].computed:
            added[value % len(added)].cancelled = True

        assert len(scheduler.running) <= max_sequences
        assert [rows.kept[row] for row in range(len(scheduler.running))] == scheduler.running
        assert not any(sequence.in_prompt for sequence in scheduler.running[:-1]), "only the last one reads"
        writing = scheduler.writing()
        assert writing == scheduler.running[: len(writing)] and not any(sequence.in_prompt for sequence in writing)
        assert {id(sequence) for sequence in rows.forgotten} == {id(sequence) for sequence in left}
        assert not any(sequence.cancelled for sequence in scheduler.running), "who hung up while waiting never joins"


def test_requests_join_by_priority_and_then_in_order() -> None:
    scheduler = Scheduler(10, lambda *arguments: None, lambda sequence: None)
    sequences = [_sequence() for _ in range(4)]
    for sequence, priority in zip(sequences, (1, 0, 1, 0), strict=True):
        scheduler.add(sequence, priority)
    joined = []
    while (chunk := scheduler.next_chunk(5)) is not None:
        chunk.sequence.computed = chunk.stop
        joined.append(sequences.index(chunk.sequence))

    assert joined == [1, 3, 0, 2]
    assert scheduler.waiting_count == 0


def test_a_long_prompt_is_read_in_parts() -> None:
    scheduler = Scheduler(2, lambda *arguments: None, lambda sequence: None)
    scheduler.add(_sequence(10))
    parts = []
    while (chunk := scheduler.next_chunk(4)) is not None:
        chunk.sequence.computed = chunk.stop
        parts.append((chunk.start, chunk.stop))

    assert parts == [(0, 4), (4, 8), (8, 10)]
