"""The benchmark's applications in Ray Serve's programming model, for Ray Serve and for Headrace alike.

    python serve_api.py {ray|headrace} APP PORT [--size N] [--nodes N]

The deployments are the same for both, as they are for a user who moves an application over.
"""

# mypy: ignore-errors
from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import numpy as np
from starlette.requests import Request
from starlette.responses import StreamingResponse


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("framework", choices=["ray", "headrace"])
    parser.add_argument("app")
    parser.add_argument("port", type=int)
    parser.add_argument("--size", type=int, default=1)
    parser.add_argument("--quiet", action="store_true", help="no access log")
    parser.add_argument("--nodes", type=int, help="of a Ray cluster; Headrace: none by default, Ray Serve: 1")
    arguments = parser.parse_args()
    if arguments.nodes is None and arguments.framework == "ray":
        arguments.nodes = 1
    return arguments


ARGUMENTS = parse()
serve = importlib.import_module({"ray": "ray.serve", "headrace": "headrace"}[ARGUMENTS.framework])


def options(machine: str) -> dict:
    """Of each deployment. On a cluster of several machines it runs on the one of that name, none of which is the head
    that takes the requests: then each hop is one between machines.

    One replica admits more requests than any workload has connections, so that the suite measures the request path
    and not the admission limit (5 by default). No CPU is reserved: the machine has fewer cores than some workloads
    replicas.
    """
    placed = {"resources": {machine: 0.001}} if (ARGUMENTS.nodes or 1) > 1 else {}
    return {"max_ongoing_requests": 256, "ray_actor_options": {"num_cpus": 0, **placed}}


FRONT, BACK = options("front"), options("back")


@serve.deployment(**FRONT)
class NoOp:
    async def __call__(self, request: Request) -> str:
        return "ok"


@serve.deployment(**FRONT)
class NoOpSync:
    def __call__(self, request: Request) -> str:
        return "ok"


@serve.deployment(**BACK)
class Echo:
    async def __call__(self, text: str) -> str:
        return text


@serve.deployment(**FRONT)
class Chain:
    def __init__(self, echo) -> None:
        self.echo = echo

    async def __call__(self, request: Request) -> str:
        return await self.echo.remote("ok")


@serve.deployment(**BACK)
class Square:
    async def __call__(self, number: int) -> int:
        return number * number


@serve.deployment(**FRONT)
class FanOut:
    def __init__(self, square) -> None:
        self.square = square

    async def __call__(self, request: Request) -> str:
        squares = await asyncio.gather(*[self.square.remote(number) for number in range(1, 5)])
        return " ".join(str(square) for square in squares)


@serve.deployment(**FRONT)
class Stream:
    async def tokens(self) -> AsyncIterator[str]:
        for number in range(100):
            yield f'data: {{"token": "word{number}"}}\n\n'

    async def __call__(self, request: Request) -> StreamingResponse:
        return StreamingResponse(self.tokens(), media_type="text/event-stream")


@serve.deployment(**BACK)
class Measure:
    async def __call__(self, array: np.ndarray) -> str:
        return f"{array.nbytes} {array[0]} {array[-1]}"


@serve.deployment(**FRONT)
class SendArray:
    def __init__(self, measure, size: int) -> None:
        self.measure = measure
        self.array = np.resize(np.arange(251, dtype=np.uint8), size)

    async def __call__(self, request: Request) -> str:
        return await self.measure.remote(self.array)


@serve.deployment(**FRONT)
class Batch:
    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
    async def double(self, numbers: list[float]) -> list[float]:
        return [2 * number for number in numbers]

    async def __call__(self, request: Request) -> str:
        body = await request.json()
        return str(await self.double(body["x"]))


@serve.deployment(**FRONT)
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


@contextmanager
def cluster(nodes: int) -> Iterator[None]:
    """A Ray cluster that this process is connected to, all on loopback: of one machine, as `ray.init()` makes it by
    itself, or of several, which are in truth this one."""
    import ray

    if nodes == 1:
        ray.init(_node_ip_address="127.0.0.1")
        yield
        return
    from ray.cluster_utils import Cluster

    made = Cluster()
    plain = {"object_store_memory": 10**9, "include_dashboard": False}
    made.add_node(**plain)
    for machine in [*("front", "back"), *(f"more-{number}" for number in range(3, nodes))][: nodes - 1]:
        made.add_node(resources={machine: 1}, **plain)
    ray.init(address=made.address)
    try:
        yield
    finally:
        ray.shutdown()
        made.shutdown()


def main() -> None:
    if ARGUMENTS.nodes is None:
        run()
    else:
        with cluster(ARGUMENTS.nodes):
            run()


def run() -> None:
    in_ray = ARGUMENTS.framework == "ray"
    logging_config = {"enable_access_log": False} if ARGUMENTS.quiet else None
    # With several machines, one alone has the port: they are all this one.
    where = {"proxy_location": "HeadOnly"} if (ARGUMENTS.nodes or 1) > 1 else {}
    serve.start(http_options={"host": "127.0.0.1", "port": ARGUMENTS.port}, logging_config=logging_config, **where)
    if ARGUMENTS.app == "routes":
        targets = [
            serve.RunTarget(NoOp.bind(), name=f"app{number}", route_prefix=f"/app{number}")
            for number in range(ARGUMENTS.size)
        ]
        serve.run_many(targets, blocking=True)
    elif ARGUMENTS.app == "new-replica":
        serve.run(WhoAnswers.bind(), external_scaler_enabled=in_ray)
        for line in sys.stdin:  # each line is a number of replicas
            if in_ray:
                scale_in_ray(int(line))
            else:
                serve.run(WhoAnswers.options(num_replicas=int(line)).bind())
    else:
        serve.run(build(ARGUMENTS.app, ARGUMENTS.size), route_prefix="/", blocking=True)


if __name__ == "__main__":
    main()
