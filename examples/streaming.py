"""Streamed answers: what a generator yields is sent at once, here one line of JSON for each sentence.

headrace run examples.streaming:app
curl -N http://127.0.0.1:8000/ --json '"It works. It is fast! But the manual is awful."'
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

import headrace as serve
from headrace.handle import DeploymentHandle


@serve.deployment
class SentenceModel:
    def __init__(self) -> None:
        self.analyzer = SentimentIntensityAnalyzer()

    async def rate(self, text: str) -> AsyncIterator[dict[str, str | float]]:
        for sentence in re.split(r"(?<=[.!?])\s+", text.strip()):
            yield {"sentence": sentence, "score": self.analyzer.polarity_scores(sentence)["compound"]}


@serve.deployment
class Stream:
    def __init__(self, model: DeploymentHandle[SentenceModel]) -> None:
        self.model = model.options(stream=True)

    async def __call__(self, text: str) -> AsyncIterator[dict[str, str | float]]:
        async for rating in self.model.rate.remote(text):
            yield rating


app = Stream.bind(SentenceModel.bind())
