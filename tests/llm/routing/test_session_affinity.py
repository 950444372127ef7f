"""Routing by session, as a function of the replica set alone."""

from __future__ import annotations

import collections

from hypothesis import given
from hypothesis import strategies as st

from headrace.llm.routing import RoutingHint, SessionAffinity

from .candidates import Replica, Request, replica_sets

requests = st.builds(Request, st.none(), st.text(max_size=3), st.sampled_from(["", "x", "z"]))


@given(st.integers(0, 10), requests, replica_sets())
def test_load_is_never_unbalanced_beyond_the_threshold(
    threshold: int, request: Request, replicas: list[Replica]
) -> None:
    chosen = SessionAffinity(imbalanced_threshold=threshold).choose(request, replicas)
    free = [replica for replica in replicas if replica.free]
    if not free:
        assert chosen is None
    else:
        assert chosen in free and chosen.load <= min(replica.load for replica in free) + threshold


def test_sessions_stay_and_only_those_of_a_replica_that_left_move() -> None:
    policy = SessionAffinity()
    replicas = [Replica(name) for name in "abcd"]
    sessions = [str(i) for i in range(400)]
    before = {session: policy.choose(Request(session_id=session), replicas) for session in sessions}
    counts = collections.Counter(replica.replica_id for replica in before.values())
    assert min(counts.values()) > 60
    for session in sessions:
        home = before[session]
        after = policy.choose(Request(session_id=session), replicas[:3])
        assert after is home or home is replicas[3]


def test_the_header_comes_before_what_the_body_says() -> None:
    policy = SessionAffinity()
    replicas = [Replica(name) for name in "abcdefg"]
    for session in "stuvwxyz":
        by_body = policy.choose(Request(RoutingHint(b"", "", session)), replicas)
        assert by_body is policy.choose(Request(session_id=session), replicas)
        assert by_body is policy.choose(Request(RoutingHint(b"", "", "other"), session), replicas)


def test_without_a_session_the_least_loaded_gets_it() -> None:
    replicas = [Replica("a", 3), Replica("b", 1), Replica("c", 2)]
    assert SessionAffinity().choose(Request(), replicas) is replicas[1]
