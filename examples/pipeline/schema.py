"""What goes into the pipeline, what comes out, and what its models hand to one another."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Document(BaseModel):
    """The request: `POST /analyze` with `{"text": "..."}`."""

    text: str = Field(min_length=1)


class Processed(BaseModel):
    """`text` with its white space tidied, the ids of its `tokens`, and how many there are."""

    text: str
    tokens: list[int]
    length: int


class Sentiment(BaseModel):
    """`label` is the model's word for it. `score`: VADER's -1 (bad) to 1 (good), or a classifier's probability."""

    label: str
    score: float


class Analysis(BaseModel):
    """The answer. `original_length` counts tokens."""

    original_length: int
    sentiment: Sentiment
    summary: str


class Arguments(BaseModel):
    """What `build` takes: `headrace run examples.pipeline.app:build models=transformers`, or `args` in a YAML file.

    The model names are those of the Hugging Face hub, or folders; they matter for `models="transformers"` only.
    """

    models: Literal["builtin", "transformers"] = "builtin"
    tokenizer_model: str = "bert-base-uncased"
    sentiment_model: str = "nlptown/bert-base-multilingual-uncased-sentiment"
    summary_model: str = "sshleifer/distilbart-cnn-12-6"
    num_gpus: float = Field(default=0, ge=0, description="GPUs for each of the two models")
