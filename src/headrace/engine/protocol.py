"""What the controller asks of an engine. Nothing above `engine/` knows which one it has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

from headrace.engine.process import Activity, NodeInfo, ProcessContext, ProcessExited, ProcessInfo, ProcessSpec
from headrace.engine.resources import Allocation, Refusal, ResourceRequest

if TYPE_CHECKING:
    from headrace.config.instance import InstanceConfig

# Inside the class, `list` is the method.
ProcessList: TypeAlias = list[ProcessInfo]
NodeList: TypeAlias = list[NodeInfo]


class JournalContents(msgspec.Struct, frozen=True):
    """What a journal holds.

    Attributes:
        snapshot: the whole state after entry `number`; None if there is none yet (`number` is 0 then).
        entries: those after it, in order.
    """

    number: int = 0
    snapshot: bytes | None = None
    entries: list[bytes] = []


class Journal(Protocol):
    """Keeps the controller's state where the next controller finds it, on whatever machine that comes up.

    Entries are numbered from 1, without gaps. One controller writes at a time.
    """

    def load(self) -> JournalContents:
        """All of it. What `compact` had not finished removing is left out.

        Raises:
            ConnectionError: it is out of reach.
        """
        ...

    def append(self, number: int, entry: bytes) -> None:
        """Keep an entry. Returns when it is certain that the next controller finds it. The same once more changes
        nothing.

        Raises:
            ConnectionError: it is not known whether the entry was kept; or the number is taken by another entry,
                because another controller has taken over. Whoever is told so starts anew from what `load` returns.
        """
        ...

    def compact(self, number: int, snapshot: bytes) -> None:
        """Keep a snapshot of the state after entry `number` in place of all entries up to it.

        A crash on the way leaves either the old contents or the new ones.

        Raises:
            ConnectionError: it is out of reach, as in `append`.
        """
        ...


class Engine(Protocol):
    """Starts processes, ends them, and tells of their ends; gives out the machines' resources.

    Attributes:
        journal: where the controller's state is kept besides its file; None where that file is always found again.
    """

    @property
    def journal(self) -> Journal | None: ...

    async def start(self, spec: ProcessSpec) -> ProcessInfo:
        """Start a process. What `allocate` gave to `spec.name` goes into its environment. Its socket, if it has one,
        takes connections when this returns.

        This takes as long as it takes until there is a place for it; `waiting` tells what it waits for, and `kill` ends
        the wait. Who stops waiting for the answer (a cancelled task) does not end the process.

        Raises:
            StartupError: a process of this name lives, there can be no new process, or it was killed before it was
                there. The message says which.
        """
        ...

    def waiting(self, name: str) -> str | None:
        """Why a process that is being started is not there yet: what it needs and what there is, for people. None if
        it is not being started, or waits for nothing."""
        ...

    async def kill(self, name: str, signal: int) -> bool:
        """Send a signal. One that is still being started is not started, whatever the signal; its `start` raises.

        False if no process of this name lives (any more) or is being started.
        """
        ...

    async def inspect(self, name: str) -> Activity | None:
        """What the system of its machine tells of a process. None if no process of this name lives, its machine is out
        of reach, or the system does not tell."""
        ...

    async def list(self) -> ProcessList:
        """The living processes, the controller and the proxies among them, with the addresses that hold now. One that
        was being started when the controller that wanted it ended is among them, or is ended by the engine."""
        ...

    async def nodes(self) -> NodeList:
        """The machines of the instance."""
        ...

    async def leaving(self, known: frozenset[str]) -> frozenset[str]:
        """Wait until other machines than `known` are to go, and return which: nothing new is placed there, and what
        runs there ends with them before long."""
        ...

    def exits(self, since: int) -> AsyncIterator[ProcessExited]:
        """The ends of processes after number `since` (0: all that are still known), then those to come, without end.

        The engine remembers the last 1,000. Whoever starts, or was away for longer, also looks at `list`.

        Raises:
            ConnectionError: the engine is gone.
        """
        ...

    async def stop_proxies(self, timeout_s: float) -> None:
        """Accept no more connections. Returns when the proxies have answered what they had begun and have ended; those
        that have not after `timeout_s` seconds are killed."""
        ...

    async def shutdown(self) -> None:
        """End every process, the caller included. Returns when the engine has begun."""
        ...

    def allocate(self, name: str, request: ResourceRequest) -> Allocation | Refusal:
        """Set resources aside for the process `name` before it is started. Asking again gives the same answer.

        An engine that finds places in `start` grants everything here that its cluster may ever have.

        `Allocation.warning` comes with the first that asks for more CPUs than there are, once.
        """
        ...

    def release(self, name: str) -> None:
        """Take back what `allocate` gave to `name`; nothing happens if it holds nothing. A process's end does not."""
        ...


EngineFactory: TypeAlias = "Callable[[ProcessContext, InstanceConfig], Awaitable[Engine]]"
"""What makes the engine of a controller. Raises ConnectionError where there is none to connect to."""
