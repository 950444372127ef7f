"""Answers a scrape for a whole node: asks every process of the instance for its metrics and joins what they say."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.observe import catalogue
from headrace.observe.buckets import LOOP_MS, Buckets
from headrace.observe.collectors import add_collector, collect_process
from headrace.observe.exposition import Family, merge, render

if TYPE_CHECKING:
    from prometheus_client.core import Metric

logger = logging.getLogger("headrace.observe")

ALIVE_WITHIN_S = 0.7
"""A process that gives no sign of life by then (it is stopped, or its code keeps the interpreter's lock) is left out:
scrapes have deadlines."""

ANSWER_WITHIN_S = 4.0
"""One that has given a sign of life gets so long: it may have very much to tell, on a machine that is very busy."""

CONTROLLER = "controller.sock"

CONTROLLER_ON_A_CLUSTER = "ctl.sock"
"""Where `controller.sock` may lead to another machine, this is there on the one that the controller runs on. Who adds
up what all machines tell shall be told of the controller once."""

_LEADS_ELSEWHERE = "controller.address"

Ask = Callable[[str, str], Awaitable[list[Family]]]
"""Asks the process behind a socket's path for its metrics, with the prefix of their names."""


class Scraper:
    """
    Args:
        folder: of the instance; the sockets in it are its processes.
        own: name of this process's socket there, which is not asked.
        prefix: of the names of metrics.
        component, actor_id: what this process is, and its name, which no other process of the instance ever has.
        ask: how another one is asked; raises OSError or anything else where it does not answer.
    """

    def __init__(self, folder: Path, own: str, prefix: str, component: str, actor_id: str, ask: Ask) -> None:
        self._folder = folder
        self._own = own
        self._prefix = prefix
        self._actor_id = actor_id
        self._loop_labels = {"component": component, "loop_type": "main", "actor_id": actor_id}
        self._loop_latency = Buckets(LOOP_MS)
        self._ask = ask
        self._running: asyncio.Task[bytes] | None = None
        add_collector(self._of_loop, labelled=True)

    async def own_families(self, prefix: str) -> list[Family]:
        """What this process has to tell to another one's scrape."""
        asked = time.monotonic()
        await asyncio.sleep(0)
        self._loop_latency.add(1000 * (time.monotonic() - asked))
        return collect_process(prefix, {"actor_id": self._actor_id})

    def _of_loop(self) -> Iterator[Metric]:
        yield from catalogue.LOOP_LATENCY.family([(self._loop_labels, self._loop_latency)])
        yield from catalogue.LOOP_TASKS.family([(self._loop_labels, len(asyncio.all_tasks()))])

    async def scrape(self) -> bytes:
        """The node's metrics as text. Scrapes that come while one is under way get the same answer."""
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._scrape())
            self._running.add_done_callback(self._done)
        return await asyncio.shield(self._running)

    def _done(self, task: asyncio.Task[bytes]) -> None:
        self._running = None

    async def _scrape(self) -> bytes:
        if "prometheus_client" not in sys.modules:  # the first time: not on the loop, which has requests to serve
            await asyncio.to_thread(importlib.import_module, "prometheus_client")
        others = [asyncio.create_task(self._asked(path)) for path in self._sockets() if path.name != self._own]
        own = await self.own_families(self._prefix)
        answers = [await other for other in others]
        unanswered = catalogue.UNANSWERED.family([({}, answers.count(None))])
        about = [family for metric in unanswered if (family := render(metric, self._prefix, {})) is not None]
        return merge([own, *(answer for answer in answers if answer is not None), about])

    def _sockets(self) -> list[Path]:
        vitals = sorted(self._folder.glob("*.vitals"))
        if self._own == CONTROLLER or not (self._folder / _LEADS_ELSEWHERE).exists():
            return [self._folder / CONTROLLER, *vitals]
        return [self._folder / CONTROLLER_ON_A_CLUSTER, *vitals]

    async def _asked(self, path: Path) -> list[Family] | None:
        """What the process says: nothing where it is gone, None where it is there and does not answer."""
        try:
            return await self._ask(str(path), self._prefix)
        except (ConnectionError, FileNotFoundError):
            return []  # it ended; its socket is removed in a moment
        except Exception as error:
            logger.debug("no metrics of %s: %s: %s", path.name, type(error).__name__, error)
            return None
