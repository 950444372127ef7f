"""Whatever happens to requests, replicas and the replica set, in whatever order: no request is lost, none runs twice
that must not, none waits while there is room."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from headrace.router import router as router_module
from headrace.router.call import MAX_ATTEMPTS
from headrace.router.router import Router
from headrace.wire import frames

from .fake_replicas import FakeLink, RecordedCall, Turns, targets

NAMES = ("a", "b", "c", "d")


class TrackedLink(FakeLink):
    __slots__ = ()

    def send(self, call: Any) -> None:
        # The rule of all rules: never more than the limit, never to one that said it is full, never twice at once.
        assert self.inflight < self.limit and not self.full and not self.leaving
        assert call.link is None and not call.settled
        call.sent += 1
        super().send(call)


class RouterMachine(RuleBasedStateMachine):
    @initialize()
    def make(self) -> None:
        patched = pytest.MonkeyPatch()
        patched.setattr(router_module, "ReplicaLink", TrackedLink)
        self.patched = patched
        self.loop = Turns()
        self.router = Router("app", "Model", self.loop, b"", None)  # type: ignore[arg-type]
        self.calls: list[RecordedCall] = []
        self.links: list[TrackedLink] = []
        self.limits: dict[str, int] = {}
        self.max_queued = -1

    # What may happen.

    def _update(self, **more: Any) -> None:
        self.router.update(targets(self.limits, max_queued=self.max_queued, **more))
        for link in self.router._links.values():
            assert isinstance(link, TrackedLink)
            if link not in self.links:
                self.links.append(link)

    @rule(names=st.sets(st.sampled_from(NAMES)), limit=st.integers(1, 3), max_queued=st.sampled_from([-1, 0, 1, 3]))
    def replica_set_changes(self, names: set[str], limit: int, max_queued: int) -> None:
        self.limits = {name: limit for name in sorted(names)}
        self.max_queued = max_queued
        self._update()

    @rule(reason=st.just("deploy failed"))
    def becomes_unavailable(self, reason: str) -> None:
        self.limits = {}
        self._update(unavailable=reason)

    @rule(which=st.integers(0, 10))
    def a_replica_connects(self, which: int) -> None:
        waiting = [link for link in self.links if link.connection is None and not link.leaving]
        if waiting:
            waiting[which % len(waiting)].connect()

    @rule(which=st.integers(0, 10))
    def a_connection_is_lost(self, which: int) -> None:
        connected = [link for link in self.links if link.connection is not None]
        if connected:
            link = connected[which % len(connected)]
            affected = list(link.fake.calls.values())
            for call in affected:
                call.lost_while_sent += 1  # type: ignore[attr-defined]
            link.lose()

    @rule(
        retryable=st.booleans(),
        model=st.sampled_from(["", "", "m1", "m2"]),
        session=st.sampled_from(["", "", "s1"]),
        streams_in=st.booleans(),
    )
    def a_request_comes(self, retryable: bool, model: str, session: str, streams_in: bool) -> None:
        call = RecordedCall(
            len(self.calls),
            flags=frames.MORE if streams_in else 0,
            retryable=retryable,
            multiplexed_model_id=model,
            session_id=session,
        )
        self.calls.append(call)
        room = any(link.free for link in self.router.reachable)
        waiting = self.router.queued
        self.router.submit(call)
        if self.router.unavailable is not None:
            expected: Any = DeploymentUnavailableError
        elif not waiting and room:
            expected = "sent"
        elif 0 <= self.max_queued <= waiting:
            expected = BackPressureError
        else:
            expected = "queued"
        if expected == "sent":
            assert call.link is not None
        elif expected == "queued":
            assert call in self.router.queue
        else:
            assert call.link is None and call not in self.router.queue and not call.settled
            if call.number % 2:  # cancelled before it hears of its refusal
                assert call.cancel()
            self.loop.turn()
            assert call.settled
            assert call.outcomes == [] if call.number % 2 else isinstance(call.outcomes[0], expected)

    def _sent(self) -> list[tuple[TrackedLink, RecordedCall]]:
        return [
            (link, call)  # type: ignore[misc]
            for link in self.links
            if link.connection is not None
            for call in link.fake.calls.values()
        ]

    @precondition(lambda self: self._sent())
    @rule(
        which=st.integers(0, 30),
        how=st.sampled_from(["answer", "answer", "fail", "reject", "reject", "stream"]),
        others=st.integers(0, 3),
    )
    def a_replica_says_something(self, which: int, how: str, others: int) -> None:
        sent = self._sent()
        link, call = sent[which % len(sent)]
        if how == "answer":
            link.answer(call, others)
        elif how == "fail":
            link.fail(call)
        elif how == "stream":
            if call.responding:
                link.end(call)
            else:
                link.start(call)
        elif not call.responding:
            call.rejected += 1
            link.reject(call)

    @rule(which=st.integers(0, 10))
    def a_replica_has_room_again(self, which: int) -> None:
        full = [link for link in self.links if link.connection is not None and link.full]
        if full:
            full[which % len(full)].announce_room()

    @rule(which=st.integers(0, 100))
    def a_caller_cancels(self, which: int) -> None:
        if self.calls:
            call = self.calls[which % len(self.calls)]
            was_settled = call.settled
            assert call.cancel() is not was_settled

    # What always holds.

    @invariant()
    def every_request_is_in_one_place(self) -> None:
        queued = [call for call in self.router.queue if not call.settled]
        assert self.router.queued == len(queued)
        for call in self.calls:
            places = queued.count(call) + sum(call is sent for _, sent in self._sent())
            assert places == (0 if call.settled else 1), (call, places)
            assert len(call.outcomes) <= 1

    @invariant()
    def those_that_wait_stand_in_the_order_in_which_they_came(self) -> None:
        waiting = [call.number for call in self.router.queue if not call.settled]  # type: ignore[attr-defined]
        assert waiting == sorted(waiting)

    @invariant()
    def nobody_waits_while_there_is_room(self) -> None:
        if self.router.queued:
            assert not any(link.free for link in self.router.reachable)
            assert self.router.unavailable is None

    @invariant()
    def links_count_right(self) -> None:
        for link in self.links:
            assert link.inflight == (len(link.fake.calls) if link.connection is not None else 0) or link.leaving
            assert (link in self.router.reachable) == (link.connection is not None and not link.leaving)
            if link.leaving and link.connection is not None:
                assert link.inflight > 0  # else it would have been closed

    @invariant()
    def nothing_is_sent_again_without_reason(self) -> None:
        for call in self.calls:
            retries = call.lost_while_sent if call.retryable and not call.flags & frames.MORE else 0
            assert call.sent <= 1 + call.rejected + min(retries, MAX_ATTEMPTS - 1)
            lost = [outcome for outcome in call.outcomes if isinstance(outcome, ReplicaUnavailableError)]
            if lost and retries and not call.responding:
                assert call.lost_while_sent >= MAX_ATTEMPTS

    def teardown(self) -> None:
        """In the end, with one patient replica, every request is settled."""
        if not hasattr(self, "router"):
            return
        self.limits = {"last": 2}
        self._update()
        last = self.router._links["last"]
        assert isinstance(last, TrackedLink)
        if last.connection is None:
            last.connect()
        while sent := self._sent():
            link, call = sent[0]
            link.end(call) if call.responding else link.answer(call)
        self.every_request_is_in_one_place()
        assert all(call.settled for call in self.calls)
        assert not self.router.queued
        self.patched.undo()


TestRouter = RouterMachine.TestCase
TestRouter.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
