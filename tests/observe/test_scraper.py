"""Which processes a scrape asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.observe.exposition import Family
from headrace.observe.scraper import Scraper


async def asked_by(own: str, folder: Path) -> list[str]:
    """The names of the sockets that a process asks."""
    asked: list[str] = []

    async def ask(path: str, prefix: str) -> list[Family]:
        asked.append(Path(path).name)
        return []

    await Scraper(folder, own, "", "proxy", "actor", ask).scrape()
    return asked


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("controller.sock", "abcde.vitals", "abcde.sock", "proxy-0.vitals", "proxy-1.vitals"):
        (tmp_path / name).touch()
    return tmp_path


async def test_a_proxy_asks_the_controller_and_all_others_of_its_machine(folder: Path) -> None:
    assert await asked_by("proxy-0.vitals", folder) == ["controller.sock", "abcde.vitals", "proxy-1.vitals"]


async def test_the_controller_does_not_ask_itself(folder: Path) -> None:
    assert await asked_by("controller.sock", folder) == ["abcde.vitals", "proxy-0.vitals", "proxy-1.vitals"]
    (folder / "controller.address").touch()
    (folder / "ctl.sock").touch()
    assert await asked_by("controller.sock", folder) == ["abcde.vitals", "proxy-0.vitals", "proxy-1.vitals"]


async def test_on_a_cluster_the_controller_is_told_of_by_its_own_machine_alone(folder: Path) -> None:
    # Whether it is there is seen when it is asked: a socket may be left of an earlier controller.
    (folder / "controller.address").touch()
    assert await asked_by("proxy-0.vitals", folder) == ["ctl.sock", "abcde.vitals", "proxy-1.vitals"]
