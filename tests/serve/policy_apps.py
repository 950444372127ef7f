"""Applications for configs that bring a policy."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

import headrace as serve

QUICK = {
    "upscale_delay_s": 0.05,
    "downscale_delay_s": 0.05,
    "metrics_interval_s": 0.05,
    "look_back_period_s": 0.2,
    "max_replicas": 4,
}


@serve.deployment(autoscaling_config=QUICK)
class Second:
    async def __call__(self) -> str:
        return "second"


@serve.deployment(autoscaling_config=QUICK)
class First:
    def __init__(self, second: Any) -> None:
        self.second = second

    async def __call__(self, request: Request) -> str:
        return str(await self.second.remote())


app = First.bind(Second.bind())
