"""Requests stay on their machine, then in their zone, while replicas there have room and are not far busier."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.config.spec import ReplicaTarget
from headrace.router import router as router_module
from headrace.router.hub import RouterHub
from headrace.router.link import ReplicaLink
from headrace.router.locality import Here
from headrace.router.policy import NearestFirst, PowerOfTwoChoices, RoutingPolicy

from .fake_replicas import FakeLink
from .test_policies import Replica, Request, replica_sets
from .test_router import Routed

HERE = Here("n1", "z1")


@pytest.fixture
def routed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Routed]:
    monkeypatch.setattr(router_module, "ReplicaLink", FakeLink)
    yield Routed(HERE)


def spread(routed: Routed, count: int) -> Counter[str]:
    calls = [routed.submit() for _ in range(count)]
    return Counter(call.link.replica_id for call in calls if call.link is not None)


def test_replicas_of_the_own_machine_come_first(routed: Routed) -> None:
    near, *_ = routed.replicas({"a@n1/z1": 10, "b@n2/z1": 10, "c@n3/z2": 10})
    for _ in range(50):
        call = routed.submit()
        assert call.link is near
        near.answer(call)


def test_then_come_those_of_the_own_zone(routed: Routed) -> None:
    same_zone, _ = routed.replicas({"b@n2/z1": 10, "c@n3/z2": 10})
    for _ in range(50):
        call = routed.submit()
        assert call.link is same_zone
        same_zone.answer(call)


def test_a_machine_without_room_hands_over_to_others(routed: Routed) -> None:
    near, far = routed.replicas({"a@n1": 4, "b@n2": 4})
    assert spread(routed, 9) == {"a@n1": 4, "b@n2": 4}
    assert routed.router.queued == 1
    near.full = True
    near.answer(next(iter(near.fake.calls.values())))
    assert near.inflight == 4 and routed.router.queued == 0 and far.inflight == 4


def test_the_load_of_a_busy_machine_does_not_pile_up_while_others_idle(routed: Routed) -> None:
    routed.replicas({"a@n1": 100, "b@n2": 100, "c@n3": 100})
    load = spread(routed, 100)
    # A quarter of its limit more than others is what being near is worth.
    assert load["b@n2"] >= 20 and load["c@n3"] >= 20
    assert load["a@n1"] - max(load["b@n2"], load["c@n3"]) <= 26


def test_of_replicas_that_take_one_request_at_a_time_none_idles(routed: Routed) -> None:
    routed.replicas({"a@n1": 1, "b@n2": 1, "c@n3": 1})
    assert spread(routed, 3) == {"a@n1": 1, "b@n2": 1, "c@n3": 1}


def test_what_a_far_replica_says_of_its_load_is_heeded(routed: Routed) -> None:
    _near, far = routed.replicas({"a@n1": 20, "b@n2": 20})
    call = routed.submit()
    while call.link is not far:
        call = routed.submit()
    far.answer(call, others=15)
    held = far.inflight
    spread(routed, 12)
    assert far.inflight == held


def test_on_one_machine_nothing_is_preferred(routed: Routed) -> None:
    for here in (HERE, Here()):
        routed = Routed(here)
        routed.replicas({f"{name}@{here.node}": 10 for name in "abc"})
        assert isinstance(routed.router._default, PowerOfTwoChoices)
        assert set(spread(routed, 30).values()) == {10}


def test_replicas_all_elsewhere_are_chosen_evenly(routed: Routed) -> None:
    routed.replicas({"a@n2": 10, "b@n3": 10})
    assert isinstance(routed.router._default, PowerOfTwoChoices)


def test_preference_follows_the_replica_set(routed: Routed) -> None:
    far, *_ = routed.replicas({"a@n2": 10, "b@n2": 10})
    assert isinstance(routed.router._default, PowerOfTwoChoices)
    *_, near = routed.replicas({"a@n2": 10, "b@n2": 10, "c@n1": 10})
    assert routed.submit().link is near
    near.lose()
    assert isinstance(routed.router._default, PowerOfTwoChoices)
    assert routed.submit().link is not None
    near.connect()
    while far.fake.calls:
        far.answer(next(iter(far.fake.calls.values())))
    assert routed.submit().link is near


def test_a_near_replica_that_stalls_is_not_preferred(routed: Routed) -> None:
    near, far = routed.replicas({"a@n1": 10, "b@n2": 10})
    near.stalled = True
    routed.router.sort()
    assert spread(routed, 5) == {"b@n2": 5}
    near.stalled = False
    routed.router.sort()
    assert routed.submit().link is near
    assert far.inflight == 5


def test_sessions_and_models_matter_more_than_distance(routed: Routed) -> None:
    _, far = routed.replicas({"a@n1": 10, "b@n2": 10})
    far.model_ids = {"m"}
    assert routed.submit(multiplexed_model_id="m").link is far
    kept = {routed.submit(session_id="s").link for _ in range(5)}
    assert len(kept) == 1


class Farthest(RoutingPolicy):
    def choose(self, request: Any, replicas: Any) -> Any:
        return max(replicas, key=lambda replica: (replica.distance, replica.zone, replica.node))


def test_a_policy_of_the_users_is_told_where_replicas_are(routed: Routed) -> None:
    path = f"{__name__}:Farthest"
    *_, farthest = routed.replicas(
        {"a@n1/z1": 10, "b@n2/z1": 10, "c@n3/z2": 10},
        routing_policy={"request_router_class": path, "request_router_kwargs": {}},
    )
    assert routed.submit().link is farthest


@given(replica_sets(min_size=1))
def test_the_nearest_with_room_is_left_only_for_one_that_is_much_less_busy(replicas: list[Replica]) -> None:
    chosen = NearestFirst([replicas]).choose(Request(), replicas)
    free = [replica for replica in replicas if replica.free]
    if not free:
        assert chosen is None
        return
    assert chosen is not None and chosen.free
    nearest = min(replica.distance for replica in free)
    if chosen.distance > nearest:
        left = [r for r in free if r.distance < chosen.distance]
        assert any(r.load > chosen.load + max(1, r.limit // 4) for r in left)


@given(st.text("ab", max_size=1), st.text("xy", max_size=1), st.text("ab", max_size=1), st.text("xy", max_size=1))
def test_distances(node: str, zone: str, their_node: str, their_zone: str) -> None:
    there = ReplicaTarget(replica_id="r", address="a", max_ongoing_requests=1, node=their_node, zone=their_zone)
    distance = Here(node, zone).distance(there)
    assert (distance == 0) == (node == their_node)
    assert (distance == 1) == (node != their_node and zone != "" and zone == their_zone)


def test_the_own_machines_replicas_are_reached_at_their_unix_sockets(routed: Routed) -> None:
    def addresses(**place: str) -> tuple[str, ...]:
        target = ReplicaTarget(
            replica_id="r", address="10.0.0.2:70", socket="/s/r.sock", max_ongoing_requests=1, **place
        )
        return ReplicaLink(routed.router, target).addresses

    assert addresses(node="n1") == ("/s/r.sock", "10.0.0.2:70")
    assert addresses(node="n2") == ("10.0.0.2:70",)
    assert addresses() == ("10.0.0.2:70",)


async def test_a_hub_knows_where_it_is_from_the_session_folder(folder: Path) -> None:
    places = []
    for content in (None, "no json", "{}", json.dumps({"node": "n1", "zone": "z1", "pid": 1})):
        if content is not None:
            (folder / "session.json").write_text(content)
        hub = RouterHub(str(folder / "controller.sock"), b"", None)
        places.append(hub.router("app", "Model").here)
        await hub.close()
    assert places == [Here(), Here(), Here(), HERE]
