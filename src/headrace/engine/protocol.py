"""What the controller asks of an engine. Nothing above `engine/` knows which one it has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol, TypeAlias

from headrace.engine.process import ProcessExited, ProcessInfo, ProcessSpec
from headrace.engine.resources import Allocation, Refusal, ResourceRequest

# Inside the class, `list` is the method.
ProcessList: TypeAlias = list[ProcessInfo]


class Engine(Protocol):
    """Starts processes, ends them, and tells of their ends; gives out the machines' resources."""

    async def start(self, spec: ProcessSpec) -> int:
        """Start a process and return its pid. What `allocate` gave to `spec.name` goes into its environment.

        Raises:
            StartupError: a process of this name lives, or there can be no new process. The message says which.
        """
        ...

    async def kill(self, name: str, signal: int) -> bool:
        """Send a signal. False if no process of this name lives (any more)."""
        ...

    async def list(self) -> ProcessList:
        """The living processes, the controller and the proxies among them."""
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

        `Allocation.warning` comes with the first that asks for more CPUs than there are, once.
        """
        ...

    def release(self, name: str) -> None:
        """Take back what `allocate` gave to `name`; nothing happens if it holds nothing. A process's end does not."""
        ...
