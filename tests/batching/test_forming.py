"""When a batch closes and what is in it: the pure part, under every order of events."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.batching.forming import BatchFormer, Limits, Waiting
from headrace.exceptions import BatchError

TIMEOUT = 10.0

# A request of a size comes in for a model; one that waits goes away; whole seconds pass (sums of them are exact);
# a batch is fetched; the limit changes.
events = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(["", "a", "b"]), st.integers(1, 6)),
        st.tuples(st.just("leave"), st.integers(0, 20)),
        st.tuples(st.just("pass"), st.integers(0, 15)),
        st.tuples(st.just("take")),
        st.tuples(st.just("resize"), st.integers(1, 8)),
    ),
    max_size=60,
)


def padded(items: list[tuple[int, int]]) -> int:
    """A measure that is not the sum of its parts: all are padded to the longest."""
    return max(size for _, size in items) * len(items)


class Model:
    """Runs events against a former and keeps account of every request."""

    def __init__(self, max_batch_size: int, sized: bool) -> None:
        self.limits = Limits(max_batch_size, TIMEOUT)
        self.sized = sized
        self.now = 0.0
        self.put: list[Waiting] = []
        self.left: set[Waiting] = set()
        self.rejected: set[Waiting] = set()
        self.taken: list[list[Waiting]] = []
        self.former: BatchFormer[Waiting] = BatchFormer(
            self.limits, padded if sized else None, lambda request, error: self.rejected.add(request)
        )

    def waiting(self) -> list[Waiting]:
        gone = self.left | self.rejected | {request for batch in self.taken for request in batch}
        return [request for request in self.put if request not in gone]

    def size(self, requests: list[Waiting]) -> int:
        return padded([request.item for request in requests]) if self.sized else len(requests)

    def apply(self, event: tuple) -> None:
        match event:
            case ("put", key, size):
                request = Waiting(key, (len(self.put), size), self.now)
                self.put.append(request)
                self.former.put(request)
            case ("leave", index):
                if waiting := self.waiting():
                    self.left.add(waiting[index % len(waiting)])
                    self.former.remove(waiting[index % len(waiting)])
            case ("pass", seconds):
                self.now += seconds
            case ("resize", size):
                self.limits.max_batch_size = size
            case ("take",):
                self.take()

    def take(self) -> list[Waiting]:
        due = self.former.next_due()
        waiting = self.waiting()
        batch = self.former.take(self.now)
        assert bool(batch) == (due <= self.now), "a batch is taken when one is due, and only then"
        if batch:
            self.taken.append(batch)
            self.check(batch, waiting)
        return batch

    def check(self, batch: list[Waiting], waiting: list[Waiting]) -> None:
        assert self.size(batch) <= self.limits.max_batch_size
        assert len({request.key for request in batch}) == 1, "models do not mix"
        lane = [request for request in waiting if request.key == batch[0].key]
        assert batch == lane[: len(batch)], "the oldest go first, in order"
        aged = self.now - batch[0].arrived >= TIMEOUT
        rest = lane[len(batch) :]
        full = self.size(batch) == self.limits.max_batch_size or (rest and not self.fits(batch, rest[0]))
        assert aged or full, "what is not full waits for its timeout"

    def fits(self, batch: list[Waiting], another: Waiting) -> bool:
        return self.size([*batch, another]) <= self.limits.max_batch_size


def run(max_batch_size: int, sized: bool, script: list[tuple]) -> Model:
    model = Model(max_batch_size, sized)
    for event in script:
        model.apply(event)
    return model


@pytest.mark.parametrize("sized", [False, True])
@given(max_batch_size=st.integers(1, 8), script=events)
def test_batches_are_within_the_size_in_order_and_of_one_model(
    sized: bool, max_batch_size: int, script: list[tuple]
) -> None:
    run(max_batch_size, sized, script)  # `Model.check` looks at each batch


@pytest.mark.parametrize("sized", [False, True])
@given(max_batch_size=st.integers(1, 8), script=events)
def test_no_request_is_lost_and_none_is_taken_twice(sized: bool, max_batch_size: int, script: list[tuple]) -> None:
    model = run(max_batch_size, sized, script)
    model.now += TIMEOUT
    while model.take():
        pass
    taken = [request for batch in model.taken for request in batch]
    assert len(taken) == len(set(taken))
    assert set(taken) | model.left | model.rejected == set(model.put)
    assert not set(taken) & (model.left | model.rejected)
    assert len(model.former) == 0
    assert model.former.next_due() == math.inf


@pytest.mark.parametrize("sized", [False, True])
@given(max_batch_size=st.integers(1, 8), script=events)
def test_a_full_batch_is_due_at_once(sized: bool, max_batch_size: int, script: list[tuple]) -> None:
    model = run(max_batch_size, sized, script)
    due = model.former.next_due()
    for key in ("", "a", "b"):
        lane = [request for request in model.waiting() if request.key == key]
        if lane and model.size(lane) >= model.limits.max_batch_size:
            assert due == -math.inf


@given(max_batch_size=st.integers(2, 8), script=events)
def test_the_timeout_counts_from_the_oldest_request_that_waits(max_batch_size: int, script: list[tuple]) -> None:
    model = run(max_batch_size, False, script)
    due = model.former.next_due()
    if due > -math.inf and model.waiting():
        assert due == min(request.arrived for request in model.waiting()) + TIMEOUT


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=30), max_batch_size=st.integers(1, 8))
def test_exactly_the_requests_that_are_too_large_alone_are_rejected(sizes: list[int], max_batch_size: int) -> None:
    model = run(max_batch_size, True, [("put", "", size) for size in sizes] + [("pass", TIMEOUT)])
    while model.take():
        pass
    assert [request.item[1] for request in model.put if request in model.rejected] == [
        size for size in sizes if size > max_batch_size
    ]


def test_a_measure_that_raises_rejects_only_the_request_that_it_raised_for() -> None:
    rejected: list[tuple[str, Exception]] = []

    def size_of(items: list[str]) -> int:
        if "bad" in items:
            raise LookupError("cannot measure this")
        return len(items)

    former: BatchFormer[Waiting] = BatchFormer(
        Limits(4, 0.0), size_of, lambda request, error: rejected.append((request.item, error))
    )
    for item in ("good", "bad", "fine"):
        former.put(Waiting("", item, 0.0))
    assert [request.item for request in former.take(0.0)] == ["good", "fine"]
    assert [(item, type(error)) for item, error in rejected] == [("bad", LookupError)]


def test_a_request_that_is_too_large_alone_is_told_its_size_and_the_limit() -> None:
    errors: list[Exception] = []
    former: BatchFormer[Waiting] = BatchFormer(Limits(4, 0.0), padded, lambda request, error: errors.append(error))
    former.put(Waiting("", (0, 9), 0.0))
    assert isinstance(errors[0], BatchError)
    assert "size 9" in str(errors[0])
    assert "max_batch_size=4" in str(errors[0])
