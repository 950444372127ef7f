"""What deployments and replicas are called where user code meets them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DeploymentID:
    """Names a deployment within an instance."""

    name: str
    app_name: str = "default"

    def __str__(self) -> str:
        return f"Deployment(name={self.name!r}, app={self.app_name!r})"


@dataclass(frozen=True)
class ReplicaID:
    """Names a replica: `unique_id` is unique among the replicas of its deployment, over time too."""

    unique_id: str
    deployment_id: DeploymentID

    def __str__(self) -> str:
        deployment = self.deployment_id
        return f"Replica(id={self.unique_id!r}, deployment={deployment.name!r}, app={deployment.app_name!r})"
