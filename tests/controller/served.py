"""What the replicas of the tests with real processes run. Imported by the tests and by the replicas."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import headrace as serve


@serve.deployment(num_replicas=2, graceful_shutdown_wait_loop_s=0.05)
class Pid:
    def __init__(self, generation: int = 1) -> None:
        self.generation = generation

    async def __call__(self, request: Any) -> dict[str, int]:
        await asyncio.sleep(0.01)
        return {"pid": os.getpid(), "generation": self.generation}


@serve.deployment
class Broken:
    def __init__(self) -> None:
        raise FileNotFoundError("weights.bin is not where it should be")

    def __call__(self, request: Any) -> str:
        return ""


@serve.deployment
class SlowToStart:
    """Its constructor, and then its first `reconfigure`, wait until a file appears."""

    def __init__(self, file: str) -> None:
        while not Path(file).exists():
            time.sleep(0.02)

    def __call__(self, request: Any) -> int:
        return os.getpid()


@serve.deployment(health_check_period_s=0.1, health_check_timeout_s=0.3)
class Blocker:
    """A request blocks the event loop for five seconds, as bad code does."""

    async def __call__(self, request: Any) -> int:
        time.sleep(5.0)  # noqa: ASYNC251
        return os.getpid()


app = Pid.bind()


def generation(args: dict[str, str]) -> Any:
    return Pid.options(num_replicas=1).bind(int(args["number"]))
