"""Replicas run the code that was deployed, also when they start after its files have changed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

import httpx
import pytest

import headrace as serve

from .conditions import running, until

APP = """\
import headrace as serve
from {package}.words import WORD

@serve.deployment
class Model:
    async def __call__(self, request) -> str:
        return WORD + " {version}"

app = Model.bind()
"""


class Release:
    """A package of the user's that changes on disk."""

    def __init__(self, folder: Path, package: str) -> None:
        self.folder, self.package = folder, package
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()

    def write(self, version: str, word: str) -> None:
        """Words must differ in length: Python takes a file of the same second and size for the one that it compiled."""
        (self.folder / self.package / "words.py").write_text(f"WORD = {word!r}\n")
        (self.folder / self.package / "app.py").write_text(APP.format(package=self.package, version=version))

    def app(self) -> Any:
        """As a new driver would import it."""
        for name in [name for name in sys.modules if name.partition(".")[0] == self.package]:
            del sys.modules[name]
        invalidate_caches()
        return import_module(f"{self.package}.app").app


@pytest.fixture
def release(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Release]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Release(tmp_path, f"release_{request.node.name[-8:]}")
    monkeypatch.undo()


def test_a_replica_that_is_replaced_after_an_edit_runs_the_old_code(http: httpx.Client, release: Release) -> None:
    release.write("1", "red")
    serve.run(release.app())
    (old,) = running("Model")
    release.write("two", "sorrowful")
    assert old.pid is not None
    os.kill(old.pid, signal.SIGKILL)
    until(lambda: [replica.pid for replica in running("Model")] not in ([], [old.pid]))
    assert http.get("/").text == "red 1"


def test_a_rollback_brings_back_code_whose_files_have_changed_or_gone(http: httpx.Client, release: Release) -> None:
    release.write("1", "red")
    serve.run(release.app())
    release.write("two", "sorrowful")
    serve.run(release.app())
    assert http.get("/").text == "sorrowful two"
    (release.folder / release.package / "words.py").unlink()
    serve.rollback()
    assert http.get("/").text == "red 1"
