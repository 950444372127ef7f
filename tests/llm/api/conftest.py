"""Fronts over the simulated engine: as plain ASGI applications, and on an instance with real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from tests.serve.conftest import instance

import headrace as serve
from headrace import client as driver
from headrace.llm.api import LocalBackend, create_front
from headrace.llm.config.llm_config import LLMConfig
from headrace.llm.engines.simulated.engine import SimulatedEngine

__all__ = ["instance"]

MODEL = "org/sim"


def simulated_config(model_id: str = MODEL, **settings: Any) -> LLMConfig:
    return LLMConfig(model_loading_config={"model_id": model_id}, llm_engine="simulated", engine_kwargs=settings)


async def backend(model_id: str = MODEL, **settings: Any) -> LocalBackend:
    engine = SimulatedEngine(simulated_config(model_id, **settings))
    info = await engine.start(lambda progress: None)
    return LocalBackend(engine.respond, engine.check_health, info)


@asynccontextmanager
async def client_of(app: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=True, **options)
    async with httpx.AsyncClient(transport=transport, base_url="http://front") as client:
        yield client


@asynccontextmanager
async def front(**options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a front over two models."""
    backends = {MODEL: await backend(), "plain": await backend("plain")}
    async with client_of(create_front(backends, **options)) as client:
        yield client


@pytest.fixture
def run(instance: driver.Client) -> Iterator[Callable[[Any], str]]:
    """Runs an application and returns its address; ended after the test."""

    def run_app(app: Any, **options: Any) -> str:
        serve.run(app, name="llm", **options)
        return instance.http_url or ""

    yield run_app
    serve.delete("llm")
