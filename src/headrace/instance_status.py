"""What `serve.status()` returns, in Ray Serve's shape."""

from __future__ import annotations

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
    """

    status: str
    status_trigger: str
    replica_states: dict[str, int]
    message: str


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
class ServeStatus:
    """The instance's state: its proxies' statuses and its applications, by name."""

    proxies: dict[str, str] = field(default_factory=dict)
    applications: dict[str, ApplicationStatusOverview] = field(default_factory=dict)
    target_capacity: float | None = None


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
                    )
                    for deployment in application.deployments
                },
            )
            for application in status.applications
        },
    )
