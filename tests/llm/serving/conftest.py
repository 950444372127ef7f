"""An instance with real processes, shared by the tests of a module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import headrace as serve
from headrace import client as driver


@pytest.fixture(scope="session", autouse=True)
def sessions_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Instances of the machine's user stay out of the tests, and theirs out of the user's."""
    folder = tmp_path_factory.mktemp("s", numbered=True)
    before = os.environ.get("HEADRACE_SESSIONS")
    os.environ["HEADRACE_SESSIONS"] = str(folder)
    yield folder
    if before is None:
        del os.environ["HEADRACE_SESSIONS"]
    else:
        os.environ["HEADRACE_SESSIONS"] = before


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
