"""What the pipeline asks of its models, whoever they are."""

from __future__ import annotations

from typing import Protocol

from .schema import Processed, Sentiment


class Preprocesses(Protocol):
    def preprocess(self, text: str) -> Processed: ...


class Rates(Protocol):
    def predict(self, text: str) -> Sentiment: ...


class Summarizes(Protocol):
    def summarize(self, text: str) -> str: ...
