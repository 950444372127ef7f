"""Headrace: model serving with Ray Serve's programming model, and no cluster.

    import headrace as serve

    @serve.deployment
    class Hello:
        async def __call__(self, request):
            return "hello"

    serve.run(Hello.bind())

Names are imported when they are first used, so that `import headrace` itself takes milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace import autoscaling_policy as autoscaling_policy
    from headrace import config as config
    from headrace import exceptions as exceptions
    from headrace import metrics as metrics
    from headrace import schema as schema
    from headrace import tracing as tracing
    from headrace.api import RunTarget as RunTarget
    from headrace.api import delete as delete
    from headrace.api import get_app_handle as get_app_handle
    from headrace.api import get_deployment_handle as get_deployment_handle
    from headrace.api import init as init
    from headrace.api import rollback as rollback
    from headrace.api import run as run
    from headrace.api import run_many as run_many
    from headrace.api import shutdown as shutdown
    from headrace.api import shutdown_async as shutdown_async
    from headrace.api import start as start
    from headrace.api import status as status
    from headrace.asgi_ingress import ingress as ingress
    from headrace.batching import batch as batch
    from headrace.config.http_options import HTTPOptions as HTTPOptions
    from headrace.config.tracing_config import TracingConfig as TracingConfig
    from headrace.context import ReplicaContext as ReplicaContext
    from headrace.context import get_replica_context as get_replica_context
    from headrace.context import get_request_context as get_request_context
    from headrace.deployments import Application as Application
    from headrace.deployments import Deployment as Deployment
    from headrace.deployments import deployment as deployment
    from headrace.handle import DeploymentHandle as DeploymentHandle
    from headrace.handle import DeploymentResponse as DeploymentResponse
    from headrace.handle import DeploymentResponseGenerator as DeploymentResponseGenerator
    from headrace.multiplex import get_multiplexed_model_id as get_multiplexed_model_id
    from headrace.multiplex import multiplexed as multiplexed
    from headrace.retry_marker import retryable as retryable
    from headrace.router.policy import RoutingPolicy as RoutingPolicy

_HOMES = {
    "Application": "deployments",
    "Deployment": "deployments",
    "DeploymentHandle": "handle",
    "DeploymentResponse": "response",
    "DeploymentResponseGenerator": "response",
    "HTTPOptions": "config.http_options",
    "ReplicaContext": "context",
    "RoutingPolicy": "router.policy",
    "RunTarget": "api",
    "TracingConfig": "config.tracing_config",
    "batch": "batching",
    "delete": "api",
    "deployment": "deployments",
    "get_app_handle": "api",
    "get_deployment_handle": "api",
    "get_multiplexed_model_id": "multiplex",
    "get_replica_context": "context",
    "get_request_context": "context",
    "ingress": "asgi_ingress",
    "init": "api",
    "multiplexed": "multiplex",
    "retryable": "retry_marker",
    "rollback": "api",
    "run": "api",
    "run_many": "api",
    "shutdown": "api",
    "shutdown_async": "api",
    "start": "api",
    "status": "api",
}

# Modules that are there without an import of their own, as in `except serve.exceptions.BackPressureError`.
_MODULES = {"autoscaling_policy", "config", "exceptions", "metrics", "schema", "tracing"}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"headrace.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    value = getattr(import_module(f"headrace.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOMES, *_MODULES]
