"""Asks the processes of the instance for their counts: often while somebody looks, and seldom otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

from headrace.config.observed import Tally
from headrace.controller.deployment_manager import DeploymentManager
from headrace.controller.observed.peers import Peers
from headrace.controller.observed.series import Deployed, Series
from headrace.controller.replica_machine import Phase
from headrace.engine.process import ProcessInfo

logger = logging.getLogger("headrace.controller")

FINE_S = 2.0
FINE_KEPT_S = 15 * 60.0
COARSE_S = 30.0
COARSE_KEPT_S = 24 * 3600.0

WATCHED_FOR_S = 60.0
"""So long after somebody has looked, points are made every FINE_S; later, every COARSE_S."""

ANSWER_WITHIN_S = 1.0

_PROXIES_KNOWN_FOR_S = 10.0
"""How old the list of proxies may be: an engine may have to ask other machines for it."""

PROXY = "proxy"
"""As which all proxies are called together."""


class Process(NamedTuple):
    """`name`: no other process ever has it. `deployment`: "<app>/<deployment>", or PROXY. `address`: its socket."""

    name: str
    deployment: str
    address: str


class Sampler:
    """
    Args:
        secret: the instance's.
        managers: the deployments that there are.
        processes: asks the engine for the processes that there are.

    Attributes:
        fine, coarse: what was found.
        peers: the connections to the processes.
        on_point: called when `fine` has a new point.
    """

    def __init__(
        self,
        secret: bytes,
        managers: Callable[[], list[DeploymentManager]],
        processes: Callable[[], Awaitable[list[ProcessInfo]]],
    ) -> None:
        self.fine = Series(FINE_S, FINE_KEPT_S, COARSE_S + 2 * FINE_S)
        self.coarse = Series(COARSE_S, COARSE_KEPT_S, 2 * COARSE_S)
        self.peers = Peers(secret)
        self.on_point: Callable[[], None] | None = None
        self._managers = managers
        self._engine_processes = processes
        self._watched_until = 0.0
        self._looked = asyncio.Event()
        self._sampling = asyncio.Lock()
        self._proxies: list[Process] = []
        self._proxies_known_until = 0.0

    # Who looks.

    def look(self) -> None:
        """Somebody looks: points come often for a while from now on."""
        if not self._is_watched():
            self._looked.set()
        self._watched_until = time.monotonic() + WATCHED_FOR_S

    def _is_watched(self) -> bool:
        return time.monotonic() < self._watched_until

    async def run(self) -> None:
        """Make points, until it is cancelled."""
        while True:
            self._looked.clear()
            interval_s = FINE_S if self._is_watched() else COARSE_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._looked.wait(), interval_s - time.time() % interval_s)
                continue  # somebody looks from now on: the next point is due sooner
            try:
                await self.sample()
            except Exception:
                # A mistake of ours here must not end what follows, and less so the controller.
                logger.exception("the processes' counts could not be taken")

    # Looking.

    async def sample(self) -> None:
        """Make a point now."""
        async with self._sampling:
            at, now = time.time(), time.monotonic()
            processes = await self.processes()
            self.peers.keep({process.address for process in processes})
            answers = await asyncio.gather(
                *(self.peers.ask(process.address, "tally", None, ANSWER_WITHIN_S, Tally) for process in processes)
            )
            tallies = {p.name: a for p, a in zip(processes, answers, strict=True) if a is not None}
            deployments = self._deployments()
            alive = {process.name for process in processes}
            self.fine.record(at, now, deployments, tallies, alive)
            if self.coarse.last is None or int(at / COARSE_S) > self.coarse.last:
                self.coarse.record(at, now, deployments, tallies, alive)
        if self.on_point is not None:
            self.on_point()

    async def begun(self) -> None:
        """Returns when there is a point: somebody may look before the first."""
        if self.fine.last is None:
            await self.sample()

    async def processes(self) -> list[Process]:
        """The processes that there are to be asked: replicas, also those that do not serve yet, and proxies."""
        if time.monotonic() >= self._proxies_known_until:
            # Where the engine is silent, those are asked that are known.
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    found = await self._engine_processes()
                self._proxies = [
                    # One that was started again counts from 0, and is another process.
                    Process(f"{info.name}-{info.pid}", PROXY, info.vitals)
                    for info in found
                    if info.role == "proxy" and info.vitals
                ]
            self._proxies_known_until = time.monotonic() + _PROXIES_KNOWN_FOR_S
        return [*self._proxies, *self._replicas()]

    def _replicas(self) -> Iterator[Process]:
        for manager in self._managers():
            for runner in manager.runners.values():
                if runner.vitals and runner.replica.phase not in (Phase.STOPPED, Phase.FAILED):
                    yield Process(runner.replica_id, f"{manager.app}/{manager.name}", runner.vitals)

    def _deployments(self) -> dict[str, Deployed]:
        return {
            f"{manager.app}/{manager.name}": Deployed(
                replicas=sum(runner.replica.phase is Phase.RUNNING for runner in manager.runners.values()),
                target_replicas=0 if manager.deleting else manager.num_replicas,
                processes=[
                    runner.replica_id
                    for runner in manager.runners.values()
                    if runner.replica.phase in (Phase.RUNNING, Phase.DRAINING)
                ],
            )
            for manager in self._managers()
        }

    # Who calls whom.

    async def calls(self) -> dict[tuple[str, str], float | None]:
        """Requests per second by caller and deployment, as of the last point; None where that is not known yet."""
        await self.begun()
        managers = self._managers()
        known = {f"{manager.app}/{manager.name}" for manager in managers}
        callers = {r: f"{manager.app}/{manager.name}" for manager in managers for r in manager.runners}
        callers.update({process.name: PROXY for process in self._proxies})
        edges: dict[tuple[str, str], float | None] = {}
        for (process, to), per_s in self.fine.calls.items():
            caller = callers.get(process)
            if caller is None or to not in known:
                continue
            before = edges.get((caller, to))
            edges[caller, to] = per_s if before is None else before + (per_s or 0.0)
        return edges

    def close(self) -> None:
        self.peers.close()
