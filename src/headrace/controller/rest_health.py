"""Health, for those who probe: of this instance, and of the Ray cluster below it where there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from headrace.config.spec import ApplicationStatus
from headrace.controller.controller import Controller

CLUSTER_ANSWERS_WITHIN_S = 1.5
"""KubeRay's probes give up after 2 s; before that it is told what is wrong."""


@runtime_checkable
class KnowsClusterHealth(Protocol):
    """What an engine on a cluster answers besides."""

    async def health(self, part: str) -> str | None:
        """None if that part of the cluster answers; otherwise what is wrong.

        Args:
            part: "gcs", where the cluster keeps its state, or "raylet", what runs processes on the controller's node.
        """
        ...


class HealthApi:
    """The endpoints, at the paths where Ray has them, and one of our own.

    A probe that asks for a part of Ray asks whether this node of a Ray cluster can work. Where there is no Ray it
    cannot, so that the answer is 503, and says where to ask instead.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.routes = [
            Route("/-/healthz", self.controller, methods=["GET"]),
            Route("/api/headrace/ready", self.ready, methods=["GET"]),
            Route("/api/gcs_healthz", self.gcs, methods=["GET"]),
            Route("/api/local_raylet_healthz", self.raylet, methods=["GET"]),
            Route("/api/healthz", self.node, methods=["GET"]),
        ]

    async def controller(self, request: Request) -> Response:
        """The controller answers."""
        return PlainTextResponse("success")

    async def ready(self, request: Request) -> Response:
        """Whether requests to every application would be served; while one is updated, they are by the old replicas."""
        applications = self._controller.application_statuses()
        serving = sum(1 for application in applications if serves(application))
        if not applications:
            return PlainTextResponse("nothing is deployed yet", status_code=503)
        if serving < len(applications):
            return PlainTextResponse(f"{serving} of {len(applications)} applications serve", status_code=503)
        return PlainTextResponse("success")

    async def gcs(self, request: Request) -> Response:
        return _answer([("gcs", await self._of_cluster("gcs"))], bare=True)

    async def raylet(self, request: Request) -> Response:
        return _answer([("raylet", await self._of_cluster("raylet"))], bare=True)

    async def node(self, request: Request) -> Response:
        raylet, gcs = await asyncio.gather(self._of_cluster("raylet"), self._of_cluster("gcs"))
        return _answer([("raylet", raylet), ("gcs", gcs)])

    async def _of_cluster(self, part: str) -> str | None:
        engine: object = self._controller.engine
        if not isinstance(engine, KnowsClusterHealth):
            return "there is no Ray here: processes run on this machine alone; ask for /api/headrace/ready"
        try:
            async with asyncio.timeout(CLUSTER_ANSWERS_WITHIN_S):
                return await engine.health(part)
        except TimeoutError:
            return f"no answer within {CLUSTER_ANSWERS_WITHIN_S:g} s"


def serves(application: ApplicationStatus) -> bool:
    """Whether each of its deployments has a replica that takes requests, or is meant to have none."""
    return bool(application.deployments) and all(
        deployment.target_num_replicas == 0 or deployment.replica_states.get("RUNNING", 0) > 0
        for deployment in application.deployments
    )


def _answer(parts: Iterable[tuple[str, str | None]], *, bare: bool = False) -> Response:
    """`bare`: without the names of the parts."""
    parts = list(parts)
    healthy = all(problem is None for _, problem in parts)
    lines = [f"{'' if bare else f'{part}: '}{problem or 'success'}" for part, problem in parts]
    return PlainTextResponse("\n".join(lines), status_code=200 if healthy else 503)
