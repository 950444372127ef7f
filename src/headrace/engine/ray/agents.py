"""The machines of a cluster and the agent on each, as the controller sees them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from headrace.engine.process import NodeInfo, ProcessInfo
from headrace.engine.ray.idle_machines import IdleMachines, listens
from headrace.engine.ray.kv import NAMESPACE
from headrace.engine.ray.node_agent import NodeAgent, Surroundings
from headrace.engine.ray.records import ControllerRecord, NodeRecord

logger = logging.getLogger("headrace.controller")

AGENT_PREFIX = "agent:"
"""Of the names of agents; the rest is the node."""

ZONE_LABEL = "ray.io/availability-zone"
HEAD_RESOURCE = "node:__internal_head__"
LOOK_EVERY_S = 1.0
CALL_S = 10.0
PROXIES_END_S = 30.0
"""How long the proxies of a machine that is to go have for what they have begun."""

_REMEMBERED_DEAD = 20

T = TypeVar("T")


def agent_of(node: dict[str, Any], everyone: list[dict[str, Any]], cluster: str) -> Any:
    """The agent of a machine, made if there is none.

    Args:
        node, everyone: as `ray.nodes()` tells of them.
        cluster: address of the cluster.
    """
    hosts = [other["NodeManagerAddress"] for other in everyone if other["Alive"]]
    surroundings = Surroundings(
        node=node["NodeID"],
        host=node["NodeManagerAddress"],
        cluster=cluster,
        zone=zone_of(node),
        head=is_head(node),
        shares_host=hosts.count(node["NodeManagerAddress"]) > 1,
    )
    options = {
        "name": f"{AGENT_PREFIX}{node['NodeID']}",
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_concurrency": 1000,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
    }
    return ray.remote(NodeAgent).options(**options).remote(surroundings)


def is_head(node: dict[str, Any]) -> bool:
    return HEAD_RESOURCE in node["Resources"]


def zone_of(node: dict[str, Any]) -> str:
    return str(node.get("Labels", {}).get(ZONE_LABEL, ""))


class Agents:
    """
    Args:
        cluster: address of the cluster.
        busy: the machines that run something of ours now. The head is one of them always.
    """

    def __init__(self, cluster: str, busy: Callable[[], set[str]]) -> None:
        self.records: dict[str, NodeRecord] = {}
        self.controller: ControllerRecord | None = None
        self._cluster = cluster
        self._busy = busy
        self._idle = IdleMachines()
        self._leaving: frozenset[str] = frozenset()
        self._nodes: dict[str, dict[str, Any]] = {}
        self._agents: dict[str, Any] = {}
        self._tending: dict[str, asyncio.Task[None]] = {}
        self._making: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._told: dict[str, str | None] = {}
        self._news = asyncio.Condition()

    async def keep(self) -> None:
        """See to it for ever that every machine has an agent, and every agent a root."""
        while True:
            try:
                await self.look()
            except Exception as error:
                logger.warning("cannot look at the cluster's machines: %s", error)
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Take notice of the machines that there are now."""
        nodes: list[dict[str, Any]] = await asyncio.to_thread(ray.nodes)
        alive = {node["NodeID"] for node in nodes if node["Alive"]}
        await self._look_who_leaves(alive)
        dead = [node for node in nodes if not node["Alive"]][-_REMEMBERED_DEAD:]
        self._nodes = {node["NodeID"]: node for node in nodes if node["Alive"]} | {n["NodeID"]: n for n in dead}
        for gone in self._agents.keys() - alive:
            await self._forget(gone)
        for gone in self._idle.resting.keys() - alive:
            self._idle.wake(gone)
            self.records.pop(gone, None)
        for node in nodes:
            name = node["NodeID"]
            if node["Alive"] and name not in self._tending:
                self._tending[name] = task = asyncio.create_task(self._tend(node, nodes))
                task.add_done_callback(functools.partial(self._tended, name))

    async def _look_who_leaves(self, alive: set[str]) -> None:
        gcs = ray._private.worker.global_worker.gcs_client
        leaving = frozenset(alive.intersection(await asyncio.to_thread(gcs.get_draining_nodes)))
        for name in leaving - self._leaving:
            logger.info("machine %s is to go; what runs there is replaced elsewhere", name)
        async with self._news:
            self._leaving = leaving
            self._news.notify_all()

    async def leaving(self, known: frozenset[str]) -> frozenset[str]:
        """Wait until other machines than `known` are to go, and return which."""
        async with self._news:
            await self._news.wait_for(lambda: self._leaving != known)
        return self._leaving

    async def _forget(self, name: str) -> None:
        agent = self._agents.pop(name)
        self.records.pop(name, None)
        self._told.pop(name, None)
        # Else Ray would wait for its machine to come back.
        await asyncio.to_thread(ray.kill, agent, no_restart=True)

    async def _tend(self, node: dict[str, Any], everyone: list[dict[str, Any]]) -> None:
        name = node["NodeID"]
        if name in self._idle.resting:
            if name not in self._busy() and await listens(self.records[name].gate):
                return
            self._idle.wake(name)
        try:
            agent = self._agents.get(name)
            if agent is None:
                agent = self._agents[name] = await self._make(node, everyone)
            record: NodeRecord = await asyncio.wait_for(agent.tend.remote(self.controller), 60.0)
        except Exception as error:
            self._agents.pop(name, None)
            logger.debug("the agent of machine %s does not answer: %s", name, error)
            return
        if record.error is None:
            self.records[name] = record
        else:
            self.records.pop(name, None)
        if record.error != self._told.get(name):
            self._told[name] = record.error
            if record.error is not None:
                logger.error("machine %s (%s) serves nothing: %s", node["NodeManagerHostname"], name, record.error)
        async with self._news:
            self._news.notify_all()
        if record.error is None and not is_head(node):
            await self._let_rest(name)

    async def _let_rest(self, name: str) -> None:
        """Take the agent off a machine where nothing has run for a while."""
        may_rest = self._idle.may_rest(name, busy=name in self._busy(), now=time.monotonic())
        if not may_rest and not (name in self._leaving and name not in self._busy()):
            return
        try:
            if name in self._leaving:  # with its agent, Ray ends it
                await self.ask(name, "stop_proxies", PROXIES_END_S, timeout_s=PROXIES_END_S + CALL_S)
            processes: list[ProcessInfo] = await self.ask(name, "processes")
        except ConnectionError:
            return
        agent = self._agents.get(name)
        if agent is None or name in self._busy():
            return
        self._idle.resting[name] = processes
        del self._agents[name]
        await asyncio.to_thread(ray.kill, agent, no_restart=True)
        logger.debug("nothing runs on machine %s; its agent is taken off, and Ray may take the machine away", name)

    async def _wake(self, name: str) -> None:
        """Give a machine its agent back, if it was taken off."""
        node = self._nodes.get(name)
        if self._idle.wake(name) and node is not None:
            agent = self._agents[name] = await self._make(node, self.alive())
            await agent.tend.remote(self.controller)

    async def _make(self, node: dict[str, Any], everyone: list[dict[str, Any]]) -> Any:
        """A machine's agent."""
        if self._closed:
            raise ConnectionError("the instance is being ended")
        making = asyncio.create_task(asyncio.to_thread(agent_of, node, everyone, self._cluster))
        self._making.add(making)
        making.add_done_callback(self._making.discard)
        return await asyncio.shield(making)

    async def close(self) -> None:
        """From now on no agent is made: who ends those that there are would miss it."""
        self._closed = True
        await asyncio.gather(*self._making, return_exceptions=True)

    def _tended(self, name: str, _: asyncio.Task[None]) -> None:
        self._tending.pop(name, None)

    async def record(self, node: str) -> NodeRecord:
        """The addresses of a machine, once it has some."""
        async with self._news:
            await self._news.wait_for(lambda: node in self.records or self._told.get(node))
        if node not in self.records:
            raise ConnectionError(f"machine {node} serves nothing: {self._told[node]}")
        return self.records[node]

    def agent(self, node: str) -> Any | None:
        return self._agents.get(node)

    async def ask(self, node: str, method: str, *args: Any, timeout_s: float = CALL_S) -> Any:
        """Call a machine's agent.

        Raises:
            ConnectionError: it does not answer.
        """
        try:
            await asyncio.wait_for(self._wake(node), timeout_s)
            agent = self._agents.get(node)
            if agent is None:
                raise ConnectionError(f"machine {node} has no agent")
            return await asyncio.wait_for(getattr(agent, method).remote(*args), timeout_s)
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise ConnectionError(f"the agent of machine {node} does not answer: {error}") from error

    async def ended(self, node: str, pid: int, started: int) -> None:
        """Return when a process of a machine has ended; never, where the machine has no agent any more."""
        while True:
            agent = self._agents.get(node)
            if agent is not None:
                with contextlib.suppress(ray.exceptions.RayError):
                    await agent.ended.remote(pid, started)
                    return
            await asyncio.sleep(LOOK_EVERY_S)

    async def ask_all(self, method: str, *args: Any, timeout_s: float = CALL_S) -> dict[str, Any]:
        """Call every machine's agent; what does not answer is left out."""
        return await self._ask_each([*self._agents, *self._idle.resting], method, *args, timeout_s=timeout_s)

    async def processes(self) -> dict[str, list[ProcessInfo]]:
        """What the roots have started, by machine. No agent is called up for that."""
        return {**self._idle.resting, **await self._ask_each(list(self._agents), "processes", timeout_s=2.0)}

    async def _ask_each(self, names: list[str], method: str, *args: Any, timeout_s: float) -> dict[str, Any]:
        asking: list[Awaitable[Any]] = [self.ask(name, method, *args, timeout_s=timeout_s) for name in names]
        answers = await asyncio.gather(*asking, return_exceptions=True)
        return {
            name: answer for name, answer in zip(names, answers, strict=True) if not isinstance(answer, BaseException)
        }

    def nodes(self) -> list[NodeInfo]:
        return [self._info(node) for node in self._nodes.values()]

    def alive(self) -> list[dict[str, Any]]:
        """The machines that are there, as Ray tells of them."""
        return [node for node in self._nodes.values() if node["Alive"]]

    def _info(self, node: dict[str, Any]) -> NodeInfo:
        record = self.records.get(node["NodeID"])
        return NodeInfo(
            node=node["NodeID"],
            host=node["NodeManagerAddress"],
            alive=node["Alive"],
            head=is_head(node),
            resources={
                name: amount for name, amount in node["Resources"].items() if not name.startswith(("node:", "object_"))
            },
            labels=dict(node.get("Labels") or {}),
            zone=zone_of(node),
            http=record.http if record is not None else None,
        )

    async def tell_of_controller(self, controller: ControllerRecord) -> None:
        """Have every machine's clients find the controller."""
        self.controller = controller
        await self.ask_all("tend", controller)
