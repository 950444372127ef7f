"""What `serve.status()` returns, in Ray Serve's shape."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from headrace.config.spec import InstanceStatus


@dataclass
class DeploymentStatusOverview:
    """A deployment's state.

    Attributes:
        status: UPDATING, HEALTHY, UNHEALTHY, DEPLOY_FAILED, UPSCALING or DOWNSCALING.
        status_trigger: what led to it.
        replica_states: how many replicas are in which state.
        message: why, where there is something to say.
        replicas_by_node: how many replicas have a place on which node.
    """

    status: str
    status_trigger: str
    replica_states: dict[str, int]
    message: str
    replicas_by_node: dict[str, int] = field(default_factory=dict)


@dataclass
class ApplicationStatusOverview:
    """An application's state.

    Attributes:
        status: NOT_STARTED, DEPLOYING, DEPLOY_FAILED, RUNNING, UNHEALTHY or DELETING.
        message: why, where there is something to say.
        last_deployed_time_s: seconds since the epoch.
        deployments: by name.
    """

    status: str
    message: str
    last_deployed_time_s: float
    deployments: dict[str, DeploymentStatusOverview] = field(default_factory=dict)


@dataclass
class NodeOverview:
    """A machine of the instance.

    Attributes:
        host: its address, as the others reach it.
        alive: it can run replicas.
        head: it is the one that the others depend on.
        zone: where it is; empty if nothing says so.
        resources: what it has in all: "CPU", "GPU", "memory" in bytes, and custom resources.
        labels: what `label_selector` goes by.
    """

    host: str
    alive: bool
    head: bool
    zone: str
    resources: dict[str, float]
    labels: dict[str, str]


@dataclass
class ServeStatus:
    """The instance's state: its proxies' statuses, its applications and its machines, by name."""

    proxies: dict[str, str] = field(default_factory=dict)
    applications: dict[str, ApplicationStatusOverview] = field(default_factory=dict)
    target_capacity: float | None = None
    nodes: dict[str, NodeOverview] = field(default_factory=dict)


def overview(status: InstanceStatus) -> ServeStatus:
    """The public view of what the controller says."""
    return ServeStatus(
        proxies={proxy.name: proxy.status for proxy in status.proxies},
        target_capacity=status.target_capacity,
        applications={
            application.name: ApplicationStatusOverview(
                status=application.status,
                message=application.message,
                last_deployed_time_s=application.last_deployed_time_s,
                deployments={
                    deployment.name: DeploymentStatusOverview(
                        status=deployment.status,
                        status_trigger=deployment.status_trigger,
                        replica_states=dict(deployment.replica_states),
                        message=deployment.message,
                        replicas_by_node=dict(Counter(r.node for r in deployment.replicas if r.node)),
                    )
                    for deployment in application.deployments
                },
            )
            for application in status.applications
        },
        nodes={
            node.node: NodeOverview(
                host=node.host,
                alive=node.alive,
                head=node.head,
                zone=node.zone,
                resources=dict(node.resources),
                labels=dict(node.labels),
            )
            for node in status.nodes
        },
    )
