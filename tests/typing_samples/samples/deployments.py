"""Deployments: what the decorator adds, `.bind(...)` and `.options(...)`."""

# Each expectation is on the line of its code, however long that gets.
# ruff: noqa: E501
# fmt: off

from __future__ import annotations

from collections.abc import Mapping
from typing import reveal_type

import headrace as serve
from headrace import DeploymentHandle


@serve.deployment
class Sentiment:
    def __init__(self, language: str, batch: int = 8) -> None:
        self.language = language
        self.options = {"batch": batch}

    async def __call__(self, text: str) -> float:
        return 0.0


@serve.deployment(num_replicas=2)
class Summary:
    async def __call__(self, text: str) -> str:
        return text


@serve.deployment
class Pipeline:
    def __init__(
        self,
        sentiment: DeploymentHandle[Sentiment],
        others: list[DeploymentHandle[Summary]],
        named: Mapping[str, DeploymentHandle[Summary]] | None = None,
    ) -> None:
        self.sentiment = sentiment
        self.others = others

    async def __call__(self, text: str) -> tuple[float, str]:
        return await self.sentiment.remote(text), await self.others[0].remote(text)


class Plain:
    def __init__(self, size: int) -> None:
        self.size = size

    async def __call__(self, number: int) -> int:
        return number


@serve.deployment
async def shout(text: str) -> str:
    return text.upper()


def right() -> None:
    reveal_type(Sentiment.bind("en", batch=4))  # R: headrace.deployments.Application[deployments.Sentiment]
    sentiment = Sentiment.options(num_replicas=3).bind("en")
    pipeline = Pipeline.bind(sentiment, [Summary.bind(), Summary.bind()], named={"s": Summary.bind()})
    handle = serve.run(pipeline)
    reveal_type(handle)  # R: headrace.handle.DeploymentHandle[deployments.Pipeline]
    reveal_type(handle.remote("a").result())  # R: tuple[float, str]
    reveal_type(serve.run(shout.bind()).remote("a").result())  # R: str
    reveal_type(Sentiment.func_or_class("en").options)  # R: dict[str, int]
    reveal_type(serve.deployment(Plain).bind(3))  # R: headrace.deployments.Application[deployments.Plain]
    reveal_type(serve.deployment(num_replicas=2)(Plain).bind(3))  # R: headrace.deployments.Application[deployments.Plain]


def wrong() -> None:
    Sentiment.bind()  # E: Missing positional argument "language" in call to "bind" of "Deployment"
    Sentiment.bind(1)  # E: Argument 1 to "bind" of "Deployment" has incompatible type "int"; expected "str"
    Sentiment.bind("en", size=4)  # E: Unexpected keyword argument "size" for "bind" of "Deployment"
    Sentiment.options(num_replica=3)  # E: Unexpected keyword argument "num_replica" for "options" of "Deployment"; did you mean "num_replicas"?
    Sentiment.options(num_replicas=3).bind(1)  # E: Argument 1 to "bind" of "Deployment" has incompatible type "int"; expected "str"
    Pipeline.bind(Summary.bind(), [])  # E: Argument 1 to "bind" of "Deployment" has incompatible type "Application[Summary]"; expected "DeploymentHandle[Sentiment] | Application[Sentiment]"
    serve.run(Sentiment)  # E: Argument 1 to "run" has incompatible type "type[Sentiment]"; expected "Application[Never]"
    serve.deployment(Plain).bind("3")  # E: Argument 1 to "bind" of "Deployment" has incompatible type "str"; expected "int"
    serve.run(shout.bind()).remote(1)  # E: Argument 1 to "remote" of "DeploymentHandle" has incompatible type "int"; expected "str | DeploymentResponse[str]"
    Plain.bind(3)  # E: "type[Plain]" has no attribute "bind"
