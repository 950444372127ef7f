"""The instance's status in the form that Ray Serve's REST API gives it (`ServeInstanceDetails`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.config.instance import InstanceConfig
from headrace.config.spec import ApplicationStatus, DeploymentStatus, InstanceStatus

SOURCES = ("declarative", "imperative")


def instance_details(status: InstanceStatus, config: InstanceConfig, source: str | None = None) -> dict[str, Any]:
    """JSON-able. `source` leaves out applications that came another way: one of SOURCES."""
    http = config.http.model_dump(mode="json", exclude_none=True) if config.http is not None else {}
    if "ssl_keyfile_password" in http:
        http["ssl_keyfile_password"] = "…"
    http.pop("middlewares", None)
    if status.http_port is not None:
        http["port"] = status.http_port
    hosts = {node.node: node.host for node in status.nodes}
    return {
        "controller_info": {**_place(status.controller_node, hosts), "actor_name": "controller"},
        "proxy_location": config.proxy_location.value if config.http is not None else "Disabled",
        "http_options": http or None,
        "grpc_options": None,
        "proxies": {
            p.name: {**_place(p.node, hosts), "actor_name": p.name, "status": p.status} for p in status.proxies
        },
        "applications": {
            application.name: _application(application, hosts)
            for application in status.applications
            if source is None or source == _source(application)
        },
        "target_capacity": status.target_capacity,
    }


def node_details(status: InstanceStatus) -> list[dict[str, Any]]:
    """The instance's machines. Not among its details: Ray's clients refuse what is not in their schema."""
    return [
        {
            "node_id": node.node,
            "node_ip": node.host,
            "alive": node.alive,
            "head": node.head,
            "zone": node.zone or None,
            "resources": node.resources,
            "labels": node.labels,
        }
        for node in status.nodes
    ]


def _place(node: str, hosts: Mapping[str, str]) -> dict[str, Any]:
    """Where something runs; nothing yet, if it has no place."""
    return {"node_id": node or None, "node_ip": hosts.get(node)}


def _source(application: ApplicationStatus) -> str:
    return "declarative" if application.declared else "imperative"


def _application(application: ApplicationStatus, hosts: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": application.name,
        "route_prefix": application.route_prefix,
        "docs_path": None,
        "status": application.status,
        "message": application.message,
        "last_deployed_time_s": application.last_deployed_time_s,
        "deployed_app_config": application.config,
        "source": _source(application),
        "external_scaler_enabled": application.external_scaler_enabled,
        "deployments": {d.name: _deployment(d, hosts) for d in application.deployments},
    }


def _deployment(deployment: DeploymentStatus, hosts: Mapping[str, str]) -> dict[str, Any]:
    actor = deployment.options.get("ray_actor_options") or {}
    resources = {"CPU": actor.get("num_cpus"), "GPU": actor.get("num_gpus"), "memory": actor.get("memory")}
    return {
        "name": deployment.name,
        "status": deployment.status,
        "status_trigger": deployment.status_trigger,
        "message": deployment.message,
        "deployment_config": {
            # Ray's clients take no null for an option that is not set.
            **{name: value for name, value in deployment.options.items() if value is not None},
            "name": deployment.name,
        },
        "target_num_replicas": deployment.target_num_replicas,
        "required_resources": {
            **{name: amount for name, amount in resources.items() if amount},
            **(actor.get("resources") or {}),
        },
        "autoscaling_detail": _autoscaling(deployment),
        "replicas": [
            {
                **_place(replica.node, hosts),
                "actor_name": f"replica:{replica.replica_id}",
                "replica_id": replica.replica_id,
                "state": replica.state,
                "pid": replica.pid,
                "start_time_s": replica.started_at,
                "message": replica.message,
            }
            for replica in deployment.replicas
        ],
    }


def _autoscaling(deployment: DeploymentStatus) -> dict[str, Any] | None:
    scaling = deployment.autoscaling
    if scaling is None:
        return None
    moving = deployment.status if deployment.status in ("UPSCALING", "DOWNSCALING") else "STABLE"
    return {
        "scaling_status": moving,
        "reason": scaling.reason,
        "decisions": [
            {
                "timestamp_s": decision.at,
                "reason": decision.reason,
                "prev_num_replicas": decision.previous,
                "curr_num_replicas": decision.target,
                "policy": decision.policy,
            }
            for decision in scaling.decisions
        ],
        "metrics": {"queued": scaling.queued, "running": scaling.running, "callers": scaling.callers},
        "metrics_health": "HEALTHY",
        "errors": [scaling.policy_problem] if scaling.policy_problem is not None else [],
    }
