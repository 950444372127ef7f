"""Every metric of Headrace's own: its name without the instance's prefix, its type, what it tells.

The names and types are Ray Serve 2.60's wherever Ray Serve has the metric. A counter's name stands here without the
`_total` that it is exported with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from headrace.observe.buckets import Buckets

if TYPE_CHECKING:
    from prometheus_client.core import Metric

Labels = dict[str, str]

CATALOGUE: dict[str, Described] = {}


@dataclass(frozen=True, slots=True)
class Described:
    """
    Attributes:
        labels: names of its labels.
        also: a name that it has had elsewhere and is exported under, too.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    also: str | None = None

    def family(self, samples: Iterable[tuple[Labels, float | Buckets]]) -> Iterator[Metric]:
        """The metric with these values, for Prometheus; a second one where it has a second name."""
        from prometheus_client.core import Metric

        metric = Metric(self.name, self.help, self.type)
        second = Metric(self.also, self.help, "gauge") if self.also is not None else None
        suffix = "_total" if self.type == "counter" else ""
        for labels, value in samples:
            if isinstance(value, Buckets):
                total = 0
                for bound, total in value.cumulative():
                    metric.add_sample(
                        f"{self.name}_bucket",
                        {**labels, "le": "+Inf" if bound == math.inf else str(float(bound))},
                        total,
                    )
                metric.add_sample(f"{self.name}_count", labels, total)
                metric.add_sample(f"{self.name}_sum", labels, value.sum)
                continue
            metric.add_sample(self.name + suffix, labels, value)
            if second is not None:
                second.add_sample(second.name, labels, value)
        yield metric
        if second is not None:
            yield second


def _add(
    name: str,
    type: Literal["counter", "gauge", "histogram"],
    help: str,
    labels: tuple[str, ...],
    also: str | None = None,
) -> Described:
    described = CATALOGUE[name] = Described(name, type, help, labels, also)
    return described


_REPLICA = ("application", "deployment", "replica")
_DEPLOYMENT = ("application", "deployment")
_CONTROLLED = (*_DEPLOYMENT, "actor_id")
_CALLER = (*_DEPLOYMENT, "handle", "actor_id")
_HTTP = ("application", "route", "method", "status_code", "actor_id")
_HTTP_ERROR = ("application", "route", "method", "error_code", "actor_id")
_BATCH = (*_REPLICA, "function_name")
_LOOP = ("component", "loop_type", "actor_id")

# Replicas.

REQUESTS = _add(
    "serve_deployment_request_counter",
    "counter",
    "Requests that this replica has answered without an exception.",
    (*_REPLICA, "route"),
    also="serve_deployment_request_counter",
)
ERRORS = _add(
    "serve_deployment_error_counter",
    "counter",
    "Requests to this replica that ended with an exception or were cancelled.",
    (*_REPLICA, "route", "exception_type"),
    also="serve_deployment_error_counter",
)
LATENCY = _add(
    "serve_deployment_processing_latency_ms",
    "histogram",
    "Time from a replica's taking a request to the end of its answer, milliseconds.",
    (*_REPLICA, "route"),
)
LONGEST = _add(
    "serve_deployment_max_processing_latency_ms",
    "gauge",
    "The longest that a request of the last minute has taken, from a replica's taking it to the end of its answer, ms.",
    (*_REPLICA, "route"),
)
STARTS = _add(
    "serve_deployment_replica_starts",
    "counter",
    "1 for each replica that was started.",
    _REPLICA,
    also="serve_deployment_replica_starts",
)
PROCESSING = _add(
    "serve_replica_processing_queries",
    "gauge",
    "Requests that this replica works on.",
    _REPLICA,
    also="serve_num_ongoing_requests",
)
UTILIZATION = _add(
    "serve_replica_utilization_percent",
    "gauge",
    "Share of max_ongoing_requests that was taken in the last ten minutes, percent.",
    _REPLICA,
)
LOOP_BLOCKED = _add(
    "serve_event_loop_blocked_seconds",
    "gauge",
    "For how long user code has blocked the replica's event loop; 0 where it turns.",
    _REPLICA,
)
LOOP_LATENCY = _add(
    "serve_event_loop_scheduling_latency_ms",
    "histogram",
    "How long an event loop took to turn when it was asked to, at scrapes and health checks, milliseconds.",
    _LOOP,
)
LOOP_TASKS = _add("serve_event_loop_tasks", "gauge", "Tasks of the event loop that are not done.", _LOOP)

BATCH_SIZE = _add("serve_actual_batch_size", "histogram", "Requests per batch.", _BATCH)
BATCH_WAIT = _add(
    "serve_batch_wait_time_ms", "histogram", "How long requests waited for their batch to start, milliseconds.", _BATCH
)
BATCH_TIME = _add("serve_batch_execution_time_ms", "histogram", "How long batches ran, milliseconds.", _BATCH)
BATCH_UTILIZATION = _add(
    "serve_batch_utilization_percent", "histogram", "Size of batches in percent of max_batch_size.", _BATCH
)
BATCH_QUEUE = _add("serve_batch_queue_length", "gauge", "Requests that wait for a batch.", _BATCH)
BATCHES = _add("serve_batches_processed", "counter", "Batches that have run.", _BATCH)

MODELS = _add("serve_num_multiplexed_models", "gauge", "Multiplexed models that are loaded.", _REPLICA)
MODEL_IDS = _add(
    "serve_registered_multiplexed_model_id", "gauge", "1 for each model that is loaded.", (*_REPLICA, "model_id")
)
MODEL_REQUESTS = _add(
    "serve_multiplexed_get_model_requests_counter", "counter", "How often a model was asked for.", _REPLICA
)
MODEL_LOADS = _add("serve_multiplexed_models_load_counter", "counter", "Models that were loaded.", _REPLICA)
MODEL_UNLOADS = _add("serve_multiplexed_models_unload_counter", "counter", "Models that were unloaded.", _REPLICA)
MODEL_LOAD_TIME = _add(
    "serve_multiplexed_model_load_latency_ms", "histogram", "How long models took to load, milliseconds.", _REPLICA
)
MODEL_UNLOAD_TIME = _add(
    "serve_multiplexed_model_unload_latency_ms", "histogram", "How long models took to unload, milliseconds.", _REPLICA
)

# Whoever calls deployments: proxies, and replicas with handles.

ROUTED = _add("serve_num_router_requests", "counter", "Requests that this process has sent to the deployment.", _CALLER)
HANDLE_REQUESTS = _add(
    "serve_handle_request_counter", "counter", "Calls that this process has made through handles.", _CALLER
)
REFUSED = _add(
    "serve_deployment_refused_requests",
    "counter",
    "Requests that were refused because max_queued_requests were waiting.",
    _CALLER,
)
QUEUED = _add(
    "serve_deployment_queued_queries", "gauge", "Requests that wait in this process for a replica with room.", _CALLER
)
AT_REPLICAS = _add(
    "serve_num_ongoing_requests_at_replicas",
    "gauge",
    "Requests that this process has sent to replicas and that are not answered.",
    _CALLER,
)

# Proxies.

HTTP_REQUESTS = _add("serve_num_http_requests", "counter", "HTTP requests by route, method and status.", _HTTP)
HTTP_ERRORS = _add(
    "serve_num_http_error_requests", "counter", "HTTP requests that were answered with 4xx or 5xx.", _HTTP_ERROR
)
HTTP_DEPLOYMENT_ERRORS = _add(
    "serve_num_deployment_http_error_requests",
    "counter",
    "HTTP requests that were answered with 4xx or 5xx, by ingress deployment.",
    ("deployment", *_HTTP_ERROR),
)
HTTP_LATENCY = _add(
    "serve_http_request_latency_ms",
    "histogram",
    "Time from a request's head to the end of its answer, at the proxy, milliseconds.",
    _HTTP,
)
HTTP_ONGOING = _add(
    "serve_num_ongoing_http_requests", "gauge", "HTTP requests and WebSockets that this proxy works on.", ("actor_id",)
)

# The controller.

HEALTHY = _add(
    "serve_deployment_replica_healthy", "gauge", "1 for each replica that serves, 0 for one that does not.", _REPLICA
)
HEALTHY_TOTAL = _add(
    "serve_deployment_replica_healthy_total", "gauge", "How many replicas of the deployment serve.", _DEPLOYMENT
)
FAILURES = _add(
    "serve_deployment_replica_failures",
    "counter",
    "Replicas that failed, by why: start, constructor, health or crash.",
    (*_CONTROLLED, "cause"),
)
HEALTH_CHECK_TIME = _add(
    "serve_health_check_latency_ms", "histogram", "How long health checks took, milliseconds.", _CONTROLLED
)
HEALTH_CHECK_FAILURES = _add(
    "serve_health_check_failures",
    "counter",
    "Health checks that failed or timed out.",
    (*_CONTROLLED, "replica"),
)
STARTUP_TIME = _add(
    "serve_replica_startup_latency_ms",
    "histogram",
    "Time from the decision to start a replica until it serves, milliseconds.",
    _CONTROLLED,
)
INITIALIZATION_TIME = _add(
    "serve_replica_initialization_latency_ms",
    "histogram",
    "How long replicas took from their process's start until they served, milliseconds.",
    _CONTROLLED,
)
RECONFIGURE_TIME = _add(
    "serve_replica_reconfigure_latency_ms",
    "histogram",
    "How long replicas took to take on new options, milliseconds.",
    _CONTROLLED,
)
SHUTDOWN_TIME = _add(
    "serve_replica_shutdown_duration_ms",
    "histogram",
    "Time from telling a replica to stop until its process was gone, milliseconds.",
    _CONTROLLED,
)
TARGET_REPLICAS = _add(
    "serve_autoscaling_target_replicas", "gauge", "How many replicas the deployment should have.", _DEPLOYMENT
)
DESIRED_REPLICAS = _add(
    "serve_autoscaling_desired_replicas",
    "gauge",
    "How many replicas the load, or the user's policy, asks for, before bounds and delays.",
    _DEPLOYMENT,
)
MIN_REPLICAS = _add(
    "serve_autoscaling_min_replicas", "gauge", "The fewest replicas that autoscaling may want at present.", _DEPLOYMENT
)
MAX_REPLICAS = _add(
    "serve_autoscaling_max_replicas", "gauge", "The most replicas that autoscaling may want at present.", _DEPLOYMENT
)
AUTOSCALING_REQUESTS = _add(
    "serve_autoscaling_total_requests",
    "gauge",
    "Requests that wait or run, as the autoscaler counts them.",
    _DEPLOYMENT,
)
TARGET_ONGOING = _add(
    "serve_autoscaling_target_ongoing_requests",
    "gauge",
    "target_ongoing_requests of the deployment's autoscaling_config.",
    _DEPLOYMENT,
)
DEPLOYMENT_STATUS = _add(
    "serve_deployment_status",
    "gauge",
    "0 unknown, 1 DEPLOY_FAILED, 2 UNHEALTHY, 3 UPDATING, 4 UPSCALING, 5 DOWNSCALING, 6 HEALTHY.",
    _DEPLOYMENT,
)
APPLICATION_STATUS = _add(
    "serve_application_status",
    "gauge",
    "0 unknown, 1 DEPLOY_FAILED, 2 UNHEALTHY, 3 NOT_STARTED, 4 DELETING, 5 DEPLOYING, 6 RUNNING.",
    ("application",),
)
NODES = _add("serve_nodes", "gauge", "The machines of the instance: state is ALIVE or LOST.", ("state",))
NODE_REPLICAS = _add(
    "serve_node_replicas",
    "gauge",
    "Replicas of the deployment that have a place on this machine.",
    (*_DEPLOYMENT, "node"),
)
CONTROL_LOOPS = _add(
    "serve_controller_num_control_loops",
    "counter",
    "How often the controller has looked at what is to be done.",
    ("actor_id",),
    also="serve_controller_num_control_loops",
)

# The scrape itself.

UNANSWERED = _add(
    "serve_metrics_unanswered", "gauge", "Processes that did not answer this scrape in time and are not in it.", ()
)
