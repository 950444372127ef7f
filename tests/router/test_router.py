"""What a router does in cases worth telling one by one; `test_router_model` has the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from headrace.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from headrace.router import link as link_module
from headrace.router import router as router_module
from headrace.router.call import MAX_ATTEMPTS
from headrace.router.locality import Here
from headrace.router.policy import RoutingPolicy
from headrace.router.router import Router

from .fake_replicas import FakeLink, RecordedCall, Turns, targets


class Routed:
    """A router with fake replicas, all connected."""

    def __init__(self, here: Here = Here()) -> None:  # noqa: B008 - it cannot be changed
        self.loop = Turns()
        self.router = Router("app", "Model", self.loop, b"", None, here)  # type: ignore[arg-type]
        self.count = 0

    def replicas(self, limits: dict[str, int], **more: Any) -> list[FakeLink]:
        self.router.update(targets(limits, **more))
        links = [self.link(name) for name in limits]
        for link in links:
            if link.connection is None:
                link.connect()
        return links

    def link(self, name: str) -> FakeLink:
        link = self.router._links[name]
        assert isinstance(link, FakeLink)
        return link

    def submit(self, **routing: Any) -> RecordedCall:
        self.count += 1
        call = RecordedCall(self.count, **routing)
        self.router.submit(call)
        return call


@pytest.fixture
def routed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Routed]:
    monkeypatch.setattr(router_module, "ReplicaLink", FakeLink)
    yield Routed()


def test_rejected_requests_keep_their_order(routed: Routed) -> None:
    (link,) = routed.replicas({"a": 3})
    first, second, third, fourth = (routed.submit() for _ in range(4))
    for call in (first, second, third):
        link.reject(call)
    assert list(routed.router.queue) == [first, second, third, fourth]
    link.announce_room()
    assert list(link.fake.calls.values()) == [first, second, third]


def test_a_request_that_is_cancelled_before_it_hears_of_its_refusal_leaves_no_trace(routed: Routed) -> None:
    routed.router.update(targets({}, unavailable="deploy failed"))
    call = routed.submit()
    assert call.cancel()
    routed.loop.turn()
    assert not call.outcomes and routed.router.queued == 0
    (link,) = routed.replicas({"a": 1})
    assert routed.submit().link is link


def test_requests_that_give_up_waiting_do_not_pile_up(routed: Routed) -> None:
    kept = routed.submit()
    for _ in range(10_000):
        routed.submit().cancel()
    assert len(routed.router.queue) < 200 and routed.router.queued == 1
    (link,) = routed.replicas({"a": 1})
    assert kept.link is link


def test_a_rejected_request_of_a_deleted_deployment_fails_instead_of_waiting(routed: Routed) -> None:
    (link,) = routed.replicas({"a": 5})
    rejected, lost = routed.submit(), routed.submit(retryable=True)
    routed.router.update(targets({}, unavailable="it was deleted"))
    link.reject(rejected)
    link.lose()
    for call in (rejected, lost):
        assert isinstance(call.outcomes[0], DeploymentUnavailableError)


def test_a_replica_that_leaves_is_let_go_when_its_last_request_is_rejected(routed: Routed) -> None:
    (link,) = routed.replicas({"a": 5})
    connection = link.fake
    call = routed.submit()
    (other,) = routed.replicas({"b": 5})
    assert not connection.closed
    link.reject(call)
    assert connection.closed and call.link is other


def test_rejections_do_not_count_as_deaths_of_replicas(routed: Routed) -> None:
    (link,) = routed.replicas({"a": 1})
    call = routed.submit(retryable=True)
    for _ in range(2 * MAX_ATTEMPTS):
        link.reject(call)
        link.announce_room()
    link.lose()
    assert not call.settled
    for _ in range(MAX_ATTEMPTS - 1):
        link.connect()
        link.lose()
    assert isinstance(call.outcomes[0], ReplicaUnavailableError)


def test_a_call_is_retried_only_where_it_may_be(routed: Routed) -> None:
    (link,) = routed.replicas({"a": 5}, retryable_methods=["get"])
    put, get = routed.submit(method="put"), routed.submit(method="get")
    link.lose()
    assert isinstance(put.outcomes[0], ReplicaUnavailableError)
    assert not get.settled and routed.router.queued == 1
    link.connect()
    link.start(get)
    link.lose()  # now it has begun to answer
    assert isinstance(get.outcomes[0], ReplicaUnavailableError)


def test_the_queues_limit_refuses_with_what_it_counted(routed: Routed) -> None:
    routed.replicas({"a": 1}, max_queued=2)
    sent, *waiting = (routed.submit() for _ in range(3))
    refused = routed.submit()
    routed.loop.turn()
    error = refused.outcomes[0]
    assert isinstance(error, BackPressureError)
    assert (error.num_queued_requests, error.max_queued_requests) == (2, 2)
    waiting[0].cancel()
    assert routed.submit() in routed.router.queue
    assert sent.link is not None


def test_closing_fails_what_waits_and_what_comes(routed: Routed) -> None:
    waiting = routed.submit()
    routed.router.close()
    late = routed.submit()
    routed.loop.turn()
    for call in (waiting, late):
        assert isinstance(call.outcomes[0], DeploymentUnavailableError)


# Policies of users.

BEHAVIOUR: list[Any] = []
TOLD: list[list[str]] = []


class Policy(RoutingPolicy):
    def choose(self, request: Any, replicas: Sequence[Any]) -> Any:
        return BEHAVIOUR[0](request, replicas)

    def replicas_changed(self, replica_ids: Sequence[str]) -> None:
        TOLD.append(list(replica_ids))


def with_policy(routed: Routed, behaviour: Any, limits: dict[str, int]) -> list[FakeLink]:
    BEHAVIOUR[:] = [behaviour]
    return routed.replicas(limits, routing_policy={"request_router_class": f"{__name__}:Policy"})


def test_a_users_policy_chooses(routed: Routed) -> None:
    links = with_policy(routed, lambda request, replicas: replicas[-1], {"a": 9, "b": 9, "c": 9})
    assert [routed.submit().link for _ in range(3)] == [links[-1]] * 3


def test_a_policy_that_raises_stops_nobody(routed: Routed, caplog: pytest.LogCaptureFixture) -> None:
    def broken(request: Any, replicas: Sequence[Any]) -> Any:
        raise KeyError("region")

    (link,) = with_policy(routed, broken, {"a": 1})
    calls = [routed.submit() for _ in range(3)]
    for call in calls:
        link.answer(call)
    assert [call.outcomes for call in calls] == [["answered"]] * 3
    assert caplog.text.count("raised KeyError: 'region'") == 1


def test_a_policy_that_chooses_a_full_replica_waits_for_it(routed: Routed) -> None:
    first, _ = with_policy(routed, lambda request, replicas: replicas[0], {"a": 1, "b": 1})
    one, two = routed.submit(), routed.submit()
    assert one.link is first and two in routed.router.queue
    first.answer(one)
    assert two.link is first


def test_a_policy_that_makes_up_a_replica_is_overruled(routed: Routed, caplog: pytest.LogCaptureFixture) -> None:
    remembered: list[Any] = []

    def stale(request: Any, replicas: Sequence[Any]) -> Any:
        remembered.extend(replicas)
        return remembered[0]

    with_policy(routed, stale, {"a": 1})
    routed.submit()
    (second,) = with_policy(routed, stale, {"b": 1})
    assert routed.submit().link is second
    assert "none of the replicas that it was given" in caplog.text


def test_a_policy_hears_of_its_replicas_at_once_and_whenever_they_change(routed: Routed) -> None:
    TOLD.clear()
    with_policy(routed, lambda request, replicas: replicas[0], {"a": 1, "b": 1})
    with_policy(routed, lambda request, replicas: replicas[0], {"b": 1, "c": 1})
    assert TOLD == [["a", "b"], ["b", "c"]]


def test_requests_without_a_hint_show_none_to_a_policy(routed: Routed) -> None:
    seen: list[Any] = []
    with_policy(routed, lambda request, replicas: seen.append(request.routing_hint) or replicas[0], {"a": 1})
    routed.submit()
    assert seen == [None]


def test_when_the_request_that_a_policy_held_back_leaves_the_next_go(routed: Routed) -> None:
    def only_others(request: Any, replicas: Sequence[Any]) -> Any:
        return None if request.session_id == "held" else replicas[0]

    (link,) = with_policy(routed, only_others, {"a": 1})
    held, behind = routed.submit(session_id="held"), routed.submit()
    assert behind.link is None
    held.cancel()
    assert behind.link is link


def test_news_of_other_replicas_does_not_hide_a_model_that_was_just_sent(
    routed: Routed, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(link_module.time, "monotonic", lambda: now)
    routed.replicas({"a": 5, "b": 5})
    holder = routed.submit(multiplexed_model_id="m").link
    routed.replicas({"a": 5, "b": 5})  # a report that is older than the request
    assert routed.submit(multiplexed_model_id="m").link is holder
    now += 60
    routed.replicas({"a": 5, "b": 5})  # it has not said that it holds the model, though it had the time
    assert all(not routed.link(name).model_ids for name in "ab")
