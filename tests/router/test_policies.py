"""The routing policies, as functions of a request and a replica set."""

from __future__ import annotations

import collections
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from headrace.router import policy
from headrace.router.policy import ModelAffinity, PowerOfTwoChoices, RoutingPolicy, SessionAffinity, least_loaded


@dataclass(frozen=True)
class Replica:
    replica_id: str
    load: int = 0
    free: bool = True
    model_ids: frozenset[str] = frozenset()
    node: str = ""
    zone: str = ""
    distance: int = 0
    limit: int = 5


@dataclass(frozen=True)
class Request:
    method: str = "__call__"
    multiplexed_model_id: str = ""
    session_id: str = ""
    sent_to: list[str] = field(default_factory=list)


@st.composite
def replica_sets(draw: st.DrawFn, min_size: int = 0) -> list[Replica]:
    count = draw(st.integers(min_size, 8))
    return [
        Replica(
            f"r{i}",
            draw(st.integers(0, 20)),
            draw(st.booleans()),
            frozenset(draw(st.sets(st.sampled_from("abc"), max_size=3))),
            distance=draw(st.integers(0, 2)),
            limit=draw(st.integers(1, 20)),
        )
        for i in range(count)
    ]


POLICIES: list[RoutingPolicy] = [PowerOfTwoChoices(), ModelAffinity(), SessionAffinity()]
requests = st.builds(Request, multiplexed_model_id=st.sampled_from("abcd"), session_id=st.text(max_size=5))


@given(st.sampled_from(POLICIES), requests, replica_sets())
def test_a_policy_chooses_a_free_replica_where_there_is_one_and_else_waits(
    chosen_by: RoutingPolicy, request: Request, replicas: list[Replica]
) -> None:
    chosen = chosen_by.choose(request, replicas)
    if any(replica.free for replica in replicas):
        assert chosen in replicas and chosen.free
    else:
        assert chosen is None


@given(replica_sets(min_size=2), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_power_of_two_never_takes_the_more_loaded_of_its_two(replicas: list[Replica], one: float, other: float) -> None:
    draws = iter([one, other])
    original, policy.random = policy.random, lambda: next(draws)
    try:
        chosen = PowerOfTwoChoices().choose(Request(), replicas)
    finally:
        policy.random = original
    i = int(one * len(replicas))
    j = int(other * (len(replicas) - 1))
    pair = [replicas[i], replicas[j + (j >= i)]]
    assert pair[0] is not pair[1]
    free = [replica for replica in pair if replica.free]
    if free:
        assert chosen in free and chosen.load == min(replica.load for replica in free)
    else:
        assert chosen == least_loaded(replicas)


def test_power_of_two_spreads_over_all() -> None:
    replicas = [Replica(f"r{i}") for i in range(5)]
    counts = collections.Counter(PowerOfTwoChoices().choose(Request(), replicas).replica_id for _ in range(2000))
    assert set(counts) == {replica.replica_id for replica in replicas}
    assert max(counts.values()) < 2 * min(counts.values())


@given(replica_sets(min_size=1), st.sampled_from("abcd"))
def test_a_model_goes_where_it_is_and_else_where_fewest_are(replicas: list[Replica], model: str) -> None:
    chosen = ModelAffinity().choose(Request(multiplexed_model_id=model), replicas)
    holders = [replica for replica in replicas if replica.free and model in replica.model_ids]
    free = [replica for replica in replicas if replica.free]
    if holders:
        assert chosen in holders and chosen.load == min(holder.load for holder in holders)
    elif free:
        assert len(chosen.model_ids) == min(len(replica.model_ids) for replica in free)


@given(st.integers(2, 8), st.data())
def test_sessions_stay_where_they_are_when_another_replica_goes_or_comes(count: int, data: st.DataObject) -> None:
    replicas = [Replica(f"r{i}") for i in range(count)]
    sessions = [Request(session_id=f"s{i}") for i in range(30)]
    before = {request.session_id: SessionAffinity().choose(request, replicas) for request in sessions}
    gone = data.draw(st.sampled_from(replicas))
    rest = data.draw(st.permutations([replica for replica in replicas if replica != gone]))
    for request in sessions:
        after = SessionAffinity().choose(request, rest)
        if before[request.session_id] != gone:
            assert after == before[request.session_id]
        # Coming is going the other way round.
        assert SessionAffinity().choose(request, [gone, *rest]) == before[request.session_id]


def test_sessions_spread_over_all_replicas() -> None:
    replicas = [Replica(f"r{i}") for i in range(4)]
    counts = collections.Counter(
        SessionAffinity().choose(Request(session_id=f"s{i}"), replicas).replica_id for i in range(1000)
    )
    assert min(counts.values()) > 150
