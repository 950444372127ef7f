"""Puts the pipeline together.

headrace run examples.pipeline.app:app
headrace run examples.pipeline.app:build models=transformers
headrace run examples/pipeline/config.yaml
"""

from __future__ import annotations

import asyncio

import headrace as serve
from headrace.handle import DeploymentHandle

from .models import Preprocesses, Rates, Summarizes
from .schema import Analysis, Arguments, Document


@serve.deployment(ray_actor_options={"num_cpus": 0.25})
class Pipeline:
    """Preprocesses a document, then asks both models at the same time, then combines their answers."""

    def __init__(
        self,
        preprocessor: DeploymentHandle[Preprocesses],
        sentiment: DeploymentHandle[Rates],
        summary: DeploymentHandle[Summarizes],
    ) -> None:
        self.preprocessor = preprocessor
        self.sentiment = sentiment
        self.summary = summary

    async def __call__(self, document: Document) -> Analysis:
        processed = await self.preprocessor.preprocess.remote(document.text)
        sentiment, summary = await asyncio.gather(
            self.sentiment.predict.remote(processed.text),
            self.summary.summarize.remote(processed.text),
        )
        return Analysis(original_length=processed.length, sentiment=sentiment, summary=summary)


def build(arguments: Arguments) -> serve.Application:
    """Binds the models of `arguments.models` into one application."""
    if arguments.models == "builtin":
        from . import builtin

        return Pipeline.bind(builtin.Preprocessor.bind(), builtin.SentimentModel.bind(), builtin.SummaryModel.bind())

    from . import huggingface

    gpus = {"num_gpus": arguments.num_gpus}
    return Pipeline.bind(
        huggingface.Preprocessor.bind(arguments.tokenizer_model),
        huggingface.SentimentModel.options(ray_actor_options=gpus).bind(arguments.sentiment_model),
        huggingface.SummaryModel.options(ray_actor_options=gpus).bind(arguments.summary_model),
    )


app = build(Arguments())
