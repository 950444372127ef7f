"""What the heads of these tests serve: imported by them, as `fruit`."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import headrace as serve


@serve.deployment(health_check_period_s=0.2, graceful_shutdown_wait_loop_s=0.05)
class Stand:
    """Answers with its price, and is unhealthy while a file is there."""

    def __init__(self, sick: str = "") -> None:
        self.price = 1
        self._sick = sick

    def reconfigure(self, config: dict[str, int]) -> None:
        self.price = config["price"]

    def check_health(self) -> None:
        if self._sick and os.path.exists(self._sick):
            raise RuntimeError("the fruit is rotten")

    async def __call__(self, request: Any) -> dict[str, int]:
        await asyncio.sleep(0.01)
        return {"price": self.price, "pid": os.getpid()}


@serve.deployment(max_constructor_retry_count=1)
class Unripe:
    def __init__(self) -> None:
        raise RuntimeError("no fruit in the store")

    async def __call__(self, request: Any) -> str:
        return ""


def stand(args: dict[str, str]) -> Any:
    return Stand.bind(args.get("sick", ""))


app = Stand.bind()
unripe = Unripe.bind()


@serve.deployment(graceful_shutdown_wait_loop_s=0.05)
class Ripening:
    """Is there once a file is, and answers a request once the file is there that it names."""

    def __init__(self, gate: str) -> None:
        while not os.path.exists(gate):
            time.sleep(0.05)

    def __call__(self, awaited: str = "") -> str:
        while awaited and not os.path.exists(awaited):
            time.sleep(0.05)
        return "ripe"


def ripening(args: dict[str, str]) -> Any:
    return Ripening.bind(args["gate"])
