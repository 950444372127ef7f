"""Options, defaults and validation: every one lives here, once. Names are imported when they are first asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.config.autoscaling import AggregationFunction, AutoscalingConfig
    from headrace.config.autoscaling_context import AutoscalingContext, TimeStampedValue
    from headrace.config.autoscaling_policy import AutoscalingPolicy
    from headrace.config.availability import refuse_unavailable
    from headrace.config.config_file import load_config
    from headrace.config.deployment_options import BackpressureConfig, DeploymentOptions
    from headrace.config.http_options import HTTPOptions, MiddlewareConfig, ProxyLocation, RestOptions
    from headrace.config.ids import DeploymentID, ReplicaID
    from headrace.config.instance import InstanceConfig
    from headrace.config.logging_config import EncodingType, LoggingConfig
    from headrace.config.placement import (
        DeploymentActorConfig,
        GangPlacementStrategy,
        GangRuntimeFailurePolicy,
        GangSchedulingConfig,
    )
    from headrace.config.ray_actor_options import RayActorOptions, RuntimeEnv
    from headrace.config.request_router import RequestRouterConfig
    from headrace.config.route_prefix import check_route_prefix
    from headrace.config.schema import DeploymentOverride, ServeApplicationSchema, ServeDeploySchema
    from headrace.config.tracing_config import TracingConfig

_HOME = {
    "AggregationFunction": "autoscaling",
    "AutoscalingConfig": "autoscaling",
    "AutoscalingContext": "autoscaling_context",
    "AutoscalingPolicy": "autoscaling_policy",
    "BackpressureConfig": "deployment_options",
    "DeploymentActorConfig": "placement",
    "DeploymentID": "ids",
    "DeploymentOptions": "deployment_options",
    "DeploymentOverride": "schema",
    "EncodingType": "logging_config",
    "GangPlacementStrategy": "placement",
    "GangRuntimeFailurePolicy": "placement",
    "GangSchedulingConfig": "placement",
    "HTTPOptions": "http_options",
    "InstanceConfig": "instance",
    "LoggingConfig": "logging_config",
    "MiddlewareConfig": "http_options",
    "ProxyLocation": "http_options",
    "RayActorOptions": "ray_actor_options",
    "ReplicaID": "ids",
    "RequestRouterConfig": "request_router",
    "RestOptions": "http_options",
    "RuntimeEnv": "ray_actor_options",
    "ServeApplicationSchema": "schema",
    "ServeDeploySchema": "schema",
    "TimeStampedValue": "autoscaling_context",
    "TracingConfig": "tracing_config",
    "check_route_prefix": "route_prefix",
    "load_config": "config_file",
    "refuse_unavailable": "availability",
}

__all__ = [
    "AggregationFunction",
    "AutoscalingConfig",
    "AutoscalingContext",
    "AutoscalingPolicy",
    "BackpressureConfig",
    "DeploymentActorConfig",
    "DeploymentID",
    "DeploymentOptions",
    "DeploymentOverride",
    "EncodingType",
    "GangPlacementStrategy",
    "GangRuntimeFailurePolicy",
    "GangSchedulingConfig",
    "HTTPOptions",
    "InstanceConfig",
    "LoggingConfig",
    "MiddlewareConfig",
    "ProxyLocation",
    "RayActorOptions",
    "ReplicaID",
    "RequestRouterConfig",
    "RestOptions",
    "RuntimeEnv",
    "ServeApplicationSchema",
    "ServeDeploySchema",
    "TimeStampedValue",
    "TracingConfig",
    "check_route_prefix",
    "load_config",
    "refuse_unavailable",
]


def __getattr__(name: str) -> Any:
    # `config.spec` is imported by every process, and most of them never need a pydantic model.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
