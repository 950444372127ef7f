"""When a policy is asked, on the event loop that the controller has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import uvloop

from headrace.config.policy_call import DeploymentFacts, PolicyAnswer, PolicyQuestion
from headrace.controller.autoscaling.asker import AT_MOST_EVERY_S, Asker

from .conftest import until


class Answering:
    """In place of the process: notes when it is asked, and answers when it is told to."""

    def __init__(self, question: Callable[[], PolicyQuestion], on_news: Callable[[], None]) -> None:
        self.question, self.on_news = question, on_news
        self.asked: list[float] = []
        self.answer: PolicyAnswer | None = None
        self.problem: str | None = None

    def ask(self) -> None:
        self.asked.append(asyncio.get_running_loop().time())

    def close(self) -> None: ...


class Deployment:
    def __init__(self, interval_s: float = 600.0) -> None:
        self.policy_interval_s = interval_s
        self.answered = 0

    def policy_answered(self) -> None:
        self.answered += 1

    def policy_facts(self) -> DeploymentFacts:
        raise AssertionError("nothing is asked in earnest here")


def asker(of_application: bool = False) -> tuple[Asker, Any]:
    made: Any = Asker("m:f", of_application, Answering)  # type: ignore[arg-type]
    return made, made.runner


def on_uvloop(test: Callable[[], Any]) -> Any:
    return uvloop.run(test())


def test_it_is_asked_when_something_is_new_and_only_then() -> None:
    async def test() -> None:
        made, runner = asker()
        made.join("Model", Deployment())
        made.look("Model", (1, 0))
        await until(lambda: len(runner.asked) == 1)
        for _ in range(50):
            made.look("Model", (1, 0))
            await asyncio.sleep(0)
        made.look("Model", (1, 5))
        await until(lambda: len(runner.asked) == 2)
        await asyncio.sleep(2 * AT_MOST_EVERY_S)
        assert len(runner.asked) == 2
        made.close()

    on_uvloop(test)


def test_many_changes_are_asked_about_together() -> None:
    async def test() -> None:
        made, runner = asker()
        made.join("Model", Deployment())
        begun = asyncio.get_running_loop().time()
        for change in range(200):
            made.look("Model", change)
            await asyncio.sleep(0.002)
        took_s = asyncio.get_running_loop().time() - begun
        assert 1 <= len(runner.asked) <= took_s / AT_MOST_EVERY_S + 1
        gaps = [later - earlier for earlier, later in zip(runner.asked, runner.asked[1:], strict=False)]
        assert all(gap > 0.99 * AT_MOST_EVERY_S for gap in gaps)
        made.close()

    on_uvloop(test)


def test_it_is_asked_regularly_by_the_shortest_interval_of_its_deployments() -> None:
    async def test() -> None:
        made, runner = asker(of_application=True)
        made.join("Slow", Deployment(600.0))
        made.join("Quick", Deployment(0.15))
        made.look("Slow", 1)
        await until(lambda: len(runner.asked) == 4)
        made.close()

    on_uvloop(test)


def test_each_deployment_is_told_what_the_policy_says_of_it() -> None:
    async def test() -> None:
        made, runner = asker(of_application=True)
        one, other = Deployment(), Deployment()
        made.join("One", one)
        made.join("Other", other)
        assert made.opinion("One").reason == "the application's policy m:f has not answered yet"
        runner.answer = PolicyAnswer(targets={"One": 2.5})
        runner.on_news()
        assert (one.answered, other.answered) == (1, 1)
        assert (made.opinion("One").wanted, made.opinion("Other").wanted) == (2.5, None)
        assert made.opinion("One").reason == "the application's policy m:f asks for 2.5"
        runner.problem = "raised ValueError: no\nTraceback ..."
        assert made.opinion("One").wanted is None
        assert made.opinion("One").reason == "the application's policy m:f raised ValueError: no; the last target stays"
        assert made.leave("Other", one)  # which is not there, so that both stay
        assert made.leave("One", one) and not made.leave("Other", other)

    on_uvloop(test)
