"""Applications that the browser tests and the pictures show."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import HTMLResponse

import headrace as serve
from headrace.llm import LLMConfig, build_openai_app


class Ticket(BaseModel):
    """What came of a ticket."""

    team: str
    urgency: float
    summary: str


@serve.deployment(num_replicas=2)
class Embedder:
    """Turns text into a vector."""

    async def __call__(self, text: str) -> list[float]:
        await asyncio.sleep(random.uniform(0.004, 0.02))
        return [float(len(text))]


@serve.deployment(
    autoscaling_config={
        "min_replicas": 1,
        "max_replicas": 4,
        "target_ongoing_requests": 2,
        "upscale_delay_s": 1,
        "downscale_delay_s": 60,
        "metrics_interval_s": 0.5,
        "look_back_period_s": 2,
    }
)
class Classifier:
    """Says which team a vector is for."""

    async def __call__(self, vector: list[float], text: str) -> str:
        await asyncio.sleep(random.uniform(0.02, 0.08))
        if "unreadable" in text:
            raise ValueError("the text cannot be read")
        return "billing" if vector[0] % 2 else "support"


@serve.deployment
class Summarizer:
    async def __call__(self, text: str) -> str:
        await asyncio.sleep(random.uniform(0.02, 0.04))
        return text[:40]


@serve.deployment(max_ongoing_requests=50)
class Triage:
    """Sorts support tickets."""

    def __init__(self, embedder: Any, classifier: Any, summarizer: Any) -> None:
        self.embedder, self.classifier, self.summarizer = embedder, classifier, summarizer

    async def __call__(
        self,
        text: str,
        language: Literal["en", "de", "fr"] = "en",
        urgency: float = Field(0.5, ge=0, le=1),
        shout: bool = False,
    ) -> Ticket:
        """Sort one ticket."""
        vector = await self.embedder.remote(text)
        team, summary = await asyncio.gather(self.classifier.remote(vector, text), self.summarizer.remote(text))
        return Ticket(team=f"{team}-{language}", urgency=urgency, summary=summary.upper() if shout else summary)


@serve.deployment
class Page:
    """Answers with HTML, as an attacker's model would."""

    async def __call__(self, request: Request) -> HTMLResponse:
        return HTMLResponse("<img src=x onerror=\"document.title='rendered'\"><script>document.title='run'</script>")


@serve.deployment
class Release:
    def reconfigure(self, config: dict[str, Any]) -> None:
        self.config = config

    async def __call__(self, request: Request) -> str:
        return "hello"


api = FastAPI()


class Note(BaseModel):
    title: str
    tags: list[str] = []
    priority: int | None = None


@serve.deployment
@serve.ingress(api)
class Notes:
    """Keeps nothing."""

    @api.put("/shelves/{shelf}/notes")
    async def put(self, shelf: str, note: Note, loud: bool = False) -> dict[str, Any]:
        """Put a note on a shelf."""
        return {"shelf": shelf, "loud": loud, "note": note.model_dump()}

    @api.get("/shelves")
    async def shelves(self) -> list[str]:
        return ["upper", "lower"]


def triage() -> Any:
    return Triage.bind(Embedder.bind(), Classifier.bind(), Summarizer.bind())


def chat() -> Any:
    config = LLMConfig(model="simulated-8b", llm_engine="simulated", time_per_output_token_s=0.01)
    return build_openai_app({"llm_configs": [config], "batch_config": None})
