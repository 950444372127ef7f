"""What applications import from `ray.serve.schema`: the config file's parts, and what `status()` returns."""

from __future__ import annotations

from headrace.config.logging_config import EncodingType, LoggingConfig
from headrace.config.ray_actor_options import RayActorOptions
from headrace.config.schema import DeploymentOverride, ServeApplicationSchema, ServeDeploySchema
from headrace.config.tracing_config import TracingConfig
from headrace.instance_status import ApplicationStatusOverview, DeploymentStatusOverview, ServeStatus

DeploymentSchema = DeploymentOverride
RayActorOptionsSchema = RayActorOptions

__all__ = [
    "ApplicationStatusOverview",
    "DeploymentSchema",
    "DeploymentStatusOverview",
    "EncodingType",
    "LoggingConfig",
    "RayActorOptionsSchema",
    "ServeApplicationSchema",
    "ServeDeploySchema",
    "ServeStatus",
    "TracingConfig",
]
