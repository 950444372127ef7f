"""An instance with real processes, shared by the tests of a module; each test runs its own applications on it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

import headrace as serve
from headrace import client as driver


@pytest.fixture(scope="module")
def instance() -> Iterator[driver.Client]:
    serve.start(http_options={"port": 0, "num_proxies": 1}, rest_options={"port": 0})
    yield driver.find()
    serve.shutdown()


@pytest.fixture
def http(instance: driver.Client) -> Iterator[httpx.Client]:
    """A client of the applications; all applications are deleted after the test."""
    with httpx.Client(base_url=instance.http_url or "", timeout=30) as client:
        yield client
    for application in instance.status().applications:
        serve.delete(application.name)
