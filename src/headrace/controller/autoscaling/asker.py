"""When a policy of the user's is asked, and what its answer means for each of the deployments that it decides for."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Protocol

import msgspec

from headrace.config.policy_call import DeploymentFacts, PolicyQuestion
from headrace.controller.autoscaling.policy_runner import PolicyRunner

AT_MOST_EVERY_S = 0.1
"""How often a policy is asked where something changes all the time; as often as Ray Serve asks always."""


LONGEST_REASON = 300
"""Characters of what a policy raised that become part of a decision's reason. `problem` has more."""


class Opinion(msgspec.Struct, frozen=True):
    """What a policy says of one deployment.

    Attributes:
        policy: its name.
        wanted: how many replicas; None if it says nothing, and the target stays as it is.
        reason: the same for people.
        problem: what is wrong with the policy; None if nothing is.
    """

    policy: str
    wanted: float | None
    reason: str
    problem: str | None = None


class Member(Protocol):
    """A deployment that a policy decides for."""

    def policy_facts(self) -> DeploymentFacts:
        """What the policy is told of it now."""
        ...

    def policy_answered(self) -> None:
        """There may be another opinion."""
        ...

    @property
    def policy_interval_s(self) -> float:
        """How often the policy is asked though nothing changes."""
        ...


class Asker:
    """One policy, and the deployments that it decides for.

    It is asked again when one of them changes, and regularly, for it may go by the time of day or by something that
    only it knows.

    Args:
        name: the policy's.
        of_application: it decides for an application's deployments together.
        make_runner: makes the runner, given what makes a question and what is to be called with news.
    """

    def __init__(
        self,
        name: str,
        of_application: bool,
        make_runner: Callable[[Callable[[], PolicyQuestion], Callable[[], None]], PolicyRunner],
    ) -> None:
        self._name = name
        self._who = f"the application's policy {name}" if of_application else f"the policy {name}"
        self._members: dict[str, Member] = {}
        self._seen: dict[str, object] = {}
        self._timer: asyncio.Handle | None = None
        self._due = math.inf  # uvloop's handles do not tell, where the moment has passed already
        self._asked_at = 0.0
        self._loop = asyncio.get_running_loop()
        self.runner = make_runner(self._question, self._news)

    def join(self, deployment: str, member: Member) -> None:
        """Decide for this deployment too, from now on."""
        self._members[deployment] = member

    def leave(self, deployment: str, member: Member) -> bool:
        """Decide for it no more. Returns whether there are others."""
        if self._members.get(deployment) is member:
            del self._members[deployment]
            self._seen.pop(deployment, None)
        return bool(self._members)

    def look(self, deployment: str, seen: object) -> None:
        """The deployment is as `seen` tells, which can be compared. If that is new, the policy is asked soon."""
        if self._seen.get(deployment) != seen:
            self._seen[deployment] = seen
            self._ask_at(self._loop.time())

    @property
    def problem(self) -> tuple[str, str] | None:
        """The policy's name and why it does not decide at present; None if it does."""
        return None if self.runner.problem is None else (self._name, self.runner.problem)

    def opinion(self, deployment: str) -> Opinion:
        """What the policy says of a deployment."""
        problem, answer = self.runner.problem, self.runner.answer
        if problem is not None:
            first_line = problem.partition("\n")[0][:LONGEST_REASON]
            return Opinion(self._name, None, f"{self._who} {first_line}; the last target stays", problem)
        if answer is None:
            return Opinion(self._name, None, f"{self._who} has not answered yet")
        wanted = answer.targets.get(deployment)
        if wanted is None or not math.isfinite(wanted):
            return Opinion(self._name, None, f"{self._who} says nothing of this deployment; the last target stays")
        return Opinion(self._name, wanted, f"{self._who} asks for {wanted:g}")

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.runner.close()

    async def end(self) -> None:
        """Nobody is decided for any more."""
        self.close()
        await self.runner.end()

    def _ask_at(self, moment: float) -> None:
        moment = max(moment, self._asked_at + AT_MOST_EVERY_S)
        if self._due <= moment:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = moment
        self._timer = self._loop.call_at(moment, self._ask)

    def _ask(self) -> None:
        self._timer, self._due = None, math.inf
        if not self._members:
            return
        self._asked_at = self._loop.time()
        self.runner.ask()
        self._ask_at(self._asked_at + min(member.policy_interval_s for member in self._members.values()))

    def _question(self) -> PolicyQuestion:
        return PolicyQuestion(deployments=[member.policy_facts() for member in self._members.values()])

    def _news(self) -> None:
        for member in self._members.values():
            member.policy_answered()
