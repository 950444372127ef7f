"""Answers a scrape for a whole node: asks every process of the instance for its metrics and joins what they say."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from headrace.observe import catalogue
from headrace.observe.collectors import collect_process
from headrace.observe.exposition import Family, merge, render

logger = logging.getLogger("headrace.observe")

ANSWER_WITHIN_S = 0.7
"""A process that has not answered by then is left out: scrapes have deadlines, and a stopped process has none."""

CONTROLLER = "controller.sock"

Ask = Callable[[str, str], Awaitable[list[Family]]]
"""Asks the process behind a socket's path for its metrics, with the prefix of their names."""


class Scraper:
    """
    Args:
        folder: of the instance; the sockets in it are its processes.
        own: name of this process's socket there, which is not asked.
        prefix: of the names of metrics.
        labels: what tells this process from others.
        ask: how another one is asked; raises OSError or anything else where it does not answer.
    """

    def __init__(self, folder: Path, own: str, prefix: str, labels: dict[str, str], ask: Ask) -> None:
        self._folder = folder
        self._own = own
        self._prefix = prefix
        self._labels = labels
        self._ask = ask
        self._running: asyncio.Task[bytes] | None = None

    async def own_families(self, prefix: str) -> list[Family]:
        """What this process has to tell to another one's scrape."""
        return collect_process(prefix, self._labels)

    async def scrape(self) -> bytes:
        """The node's metrics as text. Scrapes that come while one is under way get the same answer."""
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._scrape())
            self._running.add_done_callback(self._done)
        return await asyncio.shield(self._running)

    def _done(self, task: asyncio.Task[bytes]) -> None:
        self._running = None

    async def _scrape(self) -> bytes:
        paths = [path for path in (self._folder / CONTROLLER, *sorted(self._folder.glob("*.vitals")))]
        others = [asyncio.create_task(self._asked(path)) for path in paths if path.name != self._own]
        own = await self.own_families(self._prefix)
        answers = [await other for other in others]
        unanswered = catalogue.UNANSWERED.family([({}, answers.count(None))])
        about = [family for metric in unanswered if (family := render(metric, self._prefix, {})) is not None]
        return merge([own, *(answer for answer in answers if answer is not None), about])

    async def _asked(self, path: Path) -> list[Family] | None:
        """What the process says: nothing where it is gone, None where it is there and does not answer."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await self._ask(str(path), self._prefix)
        except (ConnectionError, FileNotFoundError):
            return []  # it ended; its socket is removed in a moment
        except Exception as error:
            logger.debug("no metrics of %s: %s: %s", path.name, type(error).__name__, error)
            return None
