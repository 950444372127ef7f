"""Routing by prefix, as a function of what was routed before."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.exceptions import ConfigError
from headrace.llm.request_router import PrefixCacheAffinityRouter
from headrace.llm.routing import PrefixAffinity, RoutingHint

from .candidates import Replica, Request, replica_sets

hints = st.one_of(st.none(), st.text("ab", max_size=200).map(lambda text: RoutingHint(text.encode())))
requests = st.builds(Request, hints, st.just(""), st.sampled_from(["", "x", "z"]))


@given(st.integers(0, 10), st.lists(st.tuples(requests, replica_sets()), max_size=20))
def test_load_is_never_unbalanced_beyond_the_threshold(
    threshold: int, history: list[tuple[Request, list[Replica]]]
) -> None:
    policy = PrefixAffinity(imbalanced_threshold=threshold, block_chars=16)
    for request, replicas in history:
        chosen = policy.choose(request, replicas)
        free = [replica for replica in replicas if replica.free]
        if not free:
            assert chosen is None
        else:
            assert chosen in free
            assert chosen.load <= min(replica.load for replica in free) + threshold


@given(st.lists(st.tuples(requests, replica_sets()), max_size=30))
def test_its_memory_is_bounded_and_replicas_that_leave_are_forgotten(
    history: list[tuple[Request, list[Replica]]],
) -> None:
    policy = PrefixAffinity(block_chars=16, eviction_threshold_chars=64)
    for request, replicas in history:
        policy.replicas_changed([replica.replica_id for replica in replicas])
        policy.choose(request, replicas)
        assert policy._memories.keys() <= {replica.replica_id for replica in replicas}
        assert all(len(memory) <= 4 for memory in policy._memories.values())


def turns(user: int, count: int) -> bytes:
    messages = [{"role": "system", "content": "Be brief. " * 40}]
    for turn in range(count):
        messages.append({"role": "user", "content": f"User {user}, turn {turn}. " + "Tell me more. " * 40})
        messages.append({"role": "assistant", "content": f"Answer {turn} for {user}. " * 30})
    return json.dumps(messages).encode()


def test_each_conversation_stays_where_it_began() -> None:
    policy = PrefixAffinity()
    replicas = [Replica(name) for name in "abcd"]
    homes: dict[int, str] = {}
    for turn in range(1, 6):
        for user in range(20):
            chosen = policy.choose(Request(RoutingHint(turns(user, turn))), replicas)
            assert chosen is not None
            assert homes.setdefault(user, chosen.replica_id) == chosen.replica_id


def test_new_conversations_spread_although_they_share_a_system_prompt() -> None:
    policy = PrefixAffinity(imbalanced_threshold=0)
    replicas = [Replica(name) for name in "ab"]
    for user in range(10):
        chosen = policy.choose(Request(RoutingHint(turns(user, 1))), replicas)
        assert chosen is not None
        chosen.load += 1
    assert [replica.load for replica in replicas] == [5, 5]


def test_a_system_prompt_alone_is_not_worth_much_waiting() -> None:
    policy = PrefixAffinity()
    replicas = [Replica(name) for name in "ab"]
    for user in range(20):
        chosen = policy.choose(Request(RoutingHint(turns(user, 1))), replicas)
        assert chosen is not None
        chosen.load += 1
        assert abs(replicas[0].load - replicas[1].load) <= 3


def test_without_a_bound_the_longest_match_always_has_it() -> None:
    policy = PrefixAffinity(imbalanced_threshold=float("inf"))
    home, other = replicas = [Replica("a"), Replica("b")]
    hint = RoutingHint(turns(1, 1))
    assert policy.choose(Request(hint), replicas) is home
    home.load = 10_000
    assert policy.choose(Request(hint), replicas) is home
    assert policy.choose(Request(RoutingHint(b"x" * 1000)), replicas) is other


def test_a_conversation_leaves_a_replica_that_is_too_busy_and_is_known_at_both_then() -> None:
    policy = PrefixAffinity(imbalanced_threshold=3)
    home, other = replicas = [Replica("a"), Replica("b")]
    hint = RoutingHint(turns(1, 1))
    assert policy.choose(Request(hint), replicas) is home
    home.load = 4
    assert policy.choose(Request(hint), replicas) is other
    assert policy.choose(Request(hint), [home]) is home
    home.load = 1
    assert policy.choose(Request(hint), replicas) is other  # both know it, and this one has less to do


def test_a_slight_match_does_not_count() -> None:
    policy = PrefixAffinity(match_rate_threshold=0.5, block_chars=16)
    replicas = [Replica("a", load=1), Replica("b", load=0)]
    known = b"x" * 64
    assert policy.choose(Request(RoutingHint(known)), replicas[:1]) is replicas[0]
    assert policy.choose(Request(RoutingHint(known + b"y" * 48)), replicas) is replicas[0]
    assert policy.choose(Request(RoutingHint(known + b"z" * 160)), replicas) is replicas[1]


def test_of_idle_replicas_that_know_nothing_of_a_prompt_the_one_with_fewest_prefixes_gets_it() -> None:
    policy = PrefixAffinity()
    replicas = [Replica(name) for name in "abc"]
    homes = [policy.choose(Request(RoutingHint(bytes([letter]) * 1000)), replicas) for letter in b"xyz"]
    assert {replica.replica_id for replica in homes if replica is not None} == {"a", "b", "c"}


def test_an_adapter_is_asked_for_where_it_is_loaded() -> None:
    policy = PrefixAffinity(imbalanced_threshold=2)
    bare, holder = replicas = [Replica("a"), Replica("b", load=2, model_ids=frozenset({"base:x"}))]
    assert policy.choose(Request(multiplexed_model_id="base:x"), replicas) is holder
    assert policy.choose(Request(multiplexed_model_id="base:y"), replicas) is bare
    holder.load = 3
    assert policy.choose(Request(multiplexed_model_id="base:x"), replicas) is bare


def test_ray_serves_parameters_are_taken() -> None:
    PrefixCacheAffinityRouter(
        imbalanced_threshold=5,
        match_rate_threshold=0.15,
        do_eviction=True,
        eviction_threshold_chars=500_000,
        eviction_target_chars=400_000,
        eviction_interval_secs=30,
    )
    PrefixCacheAffinityRouter(imbalanced_threshold=float("inf"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"imbalanced_threshold": -1},
        {"imbalanced_threshold": float("nan")},
        {"match_rate_threshold": 1.1},
        {"block_chars": 1},
        {"eviction_threshold_chars": 100},
    ],
)
def test_wrong_parameters_are_named(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigError, match=name):
        PrefixAffinity(**wrong)  # type: ignore[arg-type]
