"""An A/B test: a router sends a share of the requests to an experimental model.

headrace run examples.ab_test:app
for i in $(seq 20); do curl -s http://127.0.0.1:8000/ --json '{"text": "not bad at all"}'; echo; done
"""

from __future__ import annotations

import random
from typing import Any

from starlette.requests import Request
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

import headrace as serve
from headrace.handle import DeploymentHandle

WORDS = {"good": 1, "great": 1, "fine": 1, "bad": -1, "awful": -1, "poor": -1}


@serve.deployment
class StableModel:
    """Counts good and bad words."""

    async def __call__(self, request: Request) -> dict[str, Any]:
        text: str = (await request.json())["text"]
        return {"model": "stable", "score": sum(WORDS.get(word, 0) for word in text.lower().split())}


@serve.deployment
class ExperimentalModel:
    """Knows about negation and emphasis too."""

    def __init__(self) -> None:
        self.analyzer = SentimentIntensityAnalyzer()

    async def __call__(self, request: Request) -> dict[str, Any]:
        text: str = (await request.json())["text"]
        return {"model": "experimental", "score": self.analyzer.polarity_scores(text)["compound"]}


@serve.deployment
class ABRouter:
    def __init__(
        self,
        model_a: DeploymentHandle[StableModel],
        model_b: DeploymentHandle[ExperimentalModel],
        traffic_split: float = 0.9,
    ) -> None:
        self.model_a = model_a
        self.model_b = model_b
        self.split = traffic_split

    async def __call__(self, request: Request) -> dict[str, Any]:
        if random.random() < self.split:
            return await self.model_a.remote(request)
        return await self.model_b.remote(request)


app = ABRouter.bind(StableModel.bind(), ExperimentalModel.bind(), traffic_split=0.8)
