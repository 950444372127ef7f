"""What a proxy tells when it is scraped, and how it answers for the whole node."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.observe.collectors import add_collector
from headrace.observe.exposition import Family
from headrace.observe.http_counts import HttpCounts
from headrace.observe.router_loads import router_families
from headrace.observe.scraper import ALIVE_WITHIN_S, ANSWER_WITHIN_S, Scraper
from headrace.observe.stacks import ProcessStacks, process_stacks
from headrace.router.hub import RouterHub
from headrace.wire.callee import Listener
from headrace.wire.rpc import Handler, RpcServer, ask

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class ProxyMetrics:
    """
    Args:
        name: of this proxy, such as `proxy-0`.
        prefix: of the names of metrics.
        counts: what it has answered.
        hub: holds its routers.
        more: other control calls that are answered on the same socket.

    Attributes:
        scrape: returns the metrics of the whole node, as text.
    """

    def __init__(
        self,
        name: str,
        session_dir: Path,
        secret: bytes,
        prefix: str,
        counts: HttpCounts,
        hub: RouterHub,
        **more: Callable[..., Any],
    ) -> None:
        # One that is started again counts from 0, which makes new series and not a counter that falls.
        self._actor_id = f"{name}-{os.getpid()}"
        self._socket = session_dir / f"{name}.vitals"
        self._secret = secret
        self._counts = counts
        self._hub = hub
        self._more = more
        self._scraper = Scraper(session_dir, self._socket.name, prefix, "proxy", self._actor_id, self._ask)
        self._listener: Listener | None = None  # held: what nobody refers to stops listening
        self.scrape = self._scraper.scrape
        add_collector(self._own, labelled=True)

    async def serve(self) -> None:
        """Answer other processes' scrapes from now on, and tell what this one is at."""
        self._socket.unlink(missing_ok=True)  # of the one before, had it no chance to
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._socket))
        self._socket.chmod(0o600)
        listener.listen(16)
        listener.setblocking(False)
        handlers: dict[str, Handler] = {
            "metrics": self._scraper.own_families,
            "stacks": self._stacks,
            **self._more,
        }
        self._listener = await RpcServer(handlers).start(listener, self._secret)

    async def _stacks(self) -> ProcessStacks:
        return process_stacks(asyncio.get_running_loop())

    async def _ask(self, path: str, prefix: str) -> list[Family]:
        answer: list[Family] = await ask(
            path,
            self._secret,
            "metrics",
            prefix,
            type=list[Family],
            connect_within_s=ALIVE_WITHIN_S,
            timeout_s=ANSWER_WITHIN_S,
        )
        return answer

    def _own(self) -> Iterator[Metric]:
        yield from self._counts.families(self._actor_id)
        yield from router_families(list(self._hub.known_routers()), self._actor_id, through_handles=False)
