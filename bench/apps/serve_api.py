"""The benchmark's applications in Ray Serve's programming model, for Ray Serve and for Headrace alike.

    python serve_api.py {ray|headrace} APP PORT [--size N]

The code below the import line is the same for both, as it is for a user who moves an application over.
"""

# mypy: ignore-errors
from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import sys
from collections.abc import AsyncIterator

import numpy as np
from starlette.requests import Request
from starlette.responses import StreamingResponse

serve = importlib.import_module({"ray": "ray.serve", "headrace": "headrace"}[sys.argv[1]])

# One replica admits more requests than any workload has connections, so that the suite measures the request path and
# not the admission limit (5 by default). No CPU is reserved: the machine has fewer cores than some workloads replicas.
OPTIONS = {"max_ongoing_requests": 256, "ray_actor_options": {"num_cpus": 0}}


@serve.deployment(**OPTIONS)
class NoOp:
    async def __call__(self, request: Request) -> str:
        return "ok"


@serve.deployment(**OPTIONS)
class NoOpSync:
    def __call__(self, request: Request) -> str:
        return "ok"


@serve.deployment(**OPTIONS)
class Echo:
    async def __call__(self, text: str) -> str:
        return text


@serve.deployment(**OPTIONS)
class Chain:
    def __init__(self, echo) -> None:
        self.echo = echo

    async def __call__(self, request: Request) -> str:
        return await self.echo.remote("ok")


@serve.deployment(**OPTIONS)
class Square:
    async def __call__(self, number: int) -> int:
        return number * number


@serve.deployment(**OPTIONS)
class FanOut:
    def __init__(self, square) -> None:
        self.square = square

    async def __call__(self, request: Request) -> str:
        squares = await asyncio.gather(*[self.square.remote(number) for number in range(1, 5)])
        return " ".join(str(square) for square in squares)


@serve.deployment(**OPTIONS)
class Stream:
    async def tokens(self) -> AsyncIterator[str]:
        for number in range(100):
            yield f'data: {{"token": "word{number}"}}\n\n'

    async def __call__(self, request: Request) -> StreamingResponse:
        return StreamingResponse(self.tokens(), media_type="text/event-stream")


@serve.deployment(**OPTIONS)
class Measure:
    async def __call__(self, array: np.ndarray) -> str:
        return f"{array.nbytes} {array[0]} {array[-1]}"


@serve.deployment(**OPTIONS)
class SendArray:
    def __init__(self, measure, size: int) -> None:
        self.measure = measure
        self.array = np.resize(np.arange(251, dtype=np.uint8), size)

    async def __call__(self, request: Request) -> str:
        return await self.measure.remote(self.array)


@serve.deployment(**OPTIONS)
class Batch:
    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
    async def double(self, numbers: list[float]) -> list[float]:
        return [2 * number for number in numbers]

    async def __call__(self, request: Request) -> str:
        body = await request.json()
        return str(await self.double(body["x"]))


@serve.deployment(**OPTIONS)
class WhoAnswers:
    async def __call__(self, request: Request) -> str:
        return str(os.getpid())


def build(app: str, size: int):
    if app == "chain":
        return Chain.bind(Echo.bind())
    if app == "fanout":
        return FanOut.bind(Square.bind())
    if app == "array":
        return SendArray.bind(Measure.bind(), size)
    if app == "replicas":
        return NoOp.options(num_replicas=size).bind()
    plain = {"noop": NoOp, "noop-sync": NoOpSync, "sse": Stream, "batch": Batch, "new-replica": WhoAnswers}
    return plain[app].bind()


def scale_in_ray(count: int) -> None:
    """Ask Ray Serve's controller for a number of replicas: a second `serve.run` would replace those that there are."""
    import ray
    from ray.serve._private.common import DeploymentID
    from ray.serve.context import _get_global_client

    deployment = DeploymentID(name="WhoAnswers", app_name="default")
    ray.get(_get_global_client()._controller.update_deployment_replicas.remote(deployment, count))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("framework", choices=["ray", "headrace"])
    parser.add_argument("app")
    parser.add_argument("port", type=int)
    parser.add_argument("--size", type=int, default=1)
    parser.add_argument("--quiet", action="store_true", help="no access log")
    arguments = parser.parse_args()
    in_ray = arguments.framework == "ray"
    if in_ray:
        import ray

        # Everything on loopback; the rest is what ray.init() does by itself.
        ray.init(_node_ip_address="127.0.0.1")
    logging_config = {"enable_access_log": False} if arguments.quiet else None
    serve.start(http_options={"host": "127.0.0.1", "port": arguments.port}, logging_config=logging_config)
    if arguments.app == "routes":
        targets = [
            serve.RunTarget(NoOp.bind(), name=f"app{number}", route_prefix=f"/app{number}")
            for number in range(arguments.size)
        ]
        serve.run_many(targets, blocking=True)
    elif arguments.app == "new-replica":
        serve.run(WhoAnswers.bind(), external_scaler_enabled=in_ray)
        for line in sys.stdin:  # each line is a number of replicas
            if in_ray:
                scale_in_ray(int(line))
            else:
                serve.run(WhoAnswers.options(num_replicas=int(line)).bind())
    else:
        serve.run(build(arguments.app, arguments.size), route_prefix="/", blocking=True)


if __name__ == "__main__":
    main()
