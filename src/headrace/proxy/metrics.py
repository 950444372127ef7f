"""What a proxy tells when it is scraped, and how it answers for the whole node."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.observe import catalogue
from headrace.observe.buckets import LOOP_MS, Buckets
from headrace.observe.collectors import add_collector
from headrace.observe.exposition import Family
from headrace.observe.http_counts import HttpCounts
from headrace.observe.router_loads import router_families
from headrace.observe.scraper import ANSWER_WITHIN_S, Scraper
from headrace.router.hub import RouterHub
from headrace.wire.rpc import RpcServer, ask

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class ProxyMetrics:
    """
    Args:
        name: of this proxy, such as `proxy-0`.
        prefix: of the names of metrics.
        counts: what it has answered.
        hub: holds its routers.
    """

    def __init__(self, name: str, session_dir: Path, secret: bytes, prefix: str, counts: HttpCounts, hub: RouterHub):
        # One that is started again counts from 0, which makes new series and not a counter that falls.
        self._actor_id = f"{name}-{os.getpid()}"
        self._socket = session_dir / f"{name}.vitals"
        self._secret = secret
        self._counts = counts
        self._hub = hub
        self._loop_latency = Buckets(LOOP_MS)
        self._scraper = Scraper(session_dir, self._socket.name, prefix, {"actor_id": self._actor_id}, self._ask)
        add_collector(self._own, labelled=True)

    async def serve(self) -> None:
        """Answer other processes' scrapes from now on."""
        self._socket.unlink(missing_ok=True)  # of the one before, had it no chance to
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._socket))
        listener.listen(16)
        listener.setblocking(False)
        await RpcServer({"metrics": self.families}).start(listener, self._secret)

    async def scrape(self) -> bytes:
        """The metrics of the whole node, as text."""
        await self._turn()
        return await self._scraper.scrape()

    async def families(self, prefix: str) -> list[Family]:
        """The metrics of this process alone."""
        await self._turn()
        return await self._scraper.own_families(prefix)

    async def _turn(self) -> None:
        asked = time.monotonic()
        await asyncio.sleep(0)
        self._loop_latency.add(1000 * (time.monotonic() - asked))

    async def _ask(self, path: str, prefix: str) -> list[Family]:
        answer: list[Family] = await ask(
            path, self._secret, "metrics", prefix, type=list[Family], timeout_s=ANSWER_WITHIN_S
        )
        return answer

    def _own(self) -> Iterator[Metric]:
        loop = {"component": "proxy", "loop_type": "main", "actor_id": self._actor_id}
        yield from self._counts.families(self._actor_id)
        yield from router_families(list(self._hub.known_routers()), self._actor_id, through_handles=False)
        yield from catalogue.LOOP_LATENCY.family([(loop, self._loop_latency)])
        yield from catalogue.LOOP_TASKS.family([(loop, len(asyncio.all_tasks()))])
