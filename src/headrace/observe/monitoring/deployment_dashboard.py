"""One deployment, down to its replicas: why is it slow, why does it fail, is it the right size."""

from __future__ import annotations

from headrace.observe.monitoring.description import Dashboard, Objectives, Panel, Query, Row, Threshold, Variable
from headrace.observe.monitoring.overview_dashboard import (
    APPLICATION_VARIABLE,
    error_thresholds,
    errors,
    latency_thresholds,
    marks,
)
from headrace.observe.monitoring.queries import (
    APPLICATION,
    BY_DEPLOYMENT,
    DEPLOYMENT,
    REPLICA,
    increase,
    mean,
    quantile,
    rate,
    total,
)

VARIABLES = (
    APPLICATION_VARIABLE,
    Variable("deployment", "Deployment", "serve_deployment_status", "deployment", APPLICATION),
    Variable("replica", "Replica", "serve_deployment_replica_healthy", "replica", DEPLOYMENT),
)

LATENCY = "serve_deployment_processing_latency_ms"
NO_BATCHING = "no method is marked with @serve.batch"
NO_MODELS = "no method is marked with @serve.multiplexed"
NO_AUTOSCALING = "the deployment has no autoscaling_config"

_FULL = (Threshold(0.8, "yellow"), Threshold(0.95, "red"))


def deployment(objectives: Objectives) -> Dashboard:
    return Dashboard(
        uid="headrace-deployment",
        title="Headrace / Deployment",
        description="Deployments and their replicas: requests, queues, autoscaling, batches, models, processes.",
        variables=VARIABLES,
        rows=(
            Row("Requests", _requests(objectives)),
            Row("Replicas", _replicas()),
            Row("Queues and autoscaling", (*_queues(), *_autoscaling())),
            Row("Processes", _processes()),
            Row("Batching", _batching(), collapsed=True),
            Row("Multiplexed models", _models(), collapsed=True),
        ),
        annotations=marks(DEPLOYMENT),
    )


def _requests(objectives: Objectives) -> tuple[Panel, ...]:
    return (
        Panel(
            title="Latency by percentile",
            description="From a replica's taking a request to the end of its answer.",
            queries=tuple(
                Query(quantile(part, LATENCY, REPLICA), f"p{part * 100:g}") for part in (0.5, 0.9, 0.95, 0.99)
            ),
            unit="ms",
            thresholds=latency_thresholds(objectives),
        ),
        Panel(
            title="Throughput by replica",
            description="Requests answered without an exception. Replicas should have about as many each.",
            queries=(
                Query(
                    total("replica", rate("serve_deployment_request_counter_total", REPLICA)),
                    "{{replica}}",
                ),
            ),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            title="Errors",
            description="Share of requests that end with an exception in a replica.",
            queries=(Query(errors(BY_DEPLOYMENT, REPLICA), "{{application}} / {{deployment}}"),),
            unit="percentunit",
            thresholds=error_thresholds(objectives),
        ),
        Panel(
            title="Latencies",
            description="How many requests took how long.",
            queries=(Query(total("le", increase(f"{LATENCY}_bucket", REPLICA)), "{{le}}"),),
            unit="ms",
            kind="heatmap",
        ),
        Panel(
            title="p99 by replica",
            description="One that is much slower than the others has a slow machine, or another load.",
            queries=(Query(quantile(0.99, LATENCY, REPLICA, "replica"), "{{replica}}"),),
            unit="ms",
            thresholds=latency_thresholds(objectives),
        ),
        Panel(
            title="Exceptions",
            description="By type; CancelledError: the caller did not wait for the answer.",
            queries=(
                Query(
                    total("exception_type", rate("serve_deployment_error_counter_total", REPLICA)),
                    "{{exception_type}}",
                    "no request ends with an exception",
                ),
            ),
            unit="reqps",
            stacked=True,
        ),
    )


def _replicas() -> tuple[Panel, ...]:
    legend = "{{application}} / {{deployment}}"
    return (
        Panel(
            title="Active replicas",
            description="How many serve, and how many should.",
            queries=(
                Query(total(BY_DEPLOYMENT, f"serve_deployment_replica_healthy_total{{{DEPLOYMENT}}}"), legend),
                Query(
                    total(BY_DEPLOYMENT, f"serve_autoscaling_target_replicas{{{DEPLOYMENT}}}"),
                    f"{legend}: target",
                ),
            ),
        ),
        Panel(
            title="Replicas that failed",
            description="By why: start (no process), constructor, health (checks failed), crash.",
            queries=(
                Query(
                    total("deployment, cause", increase("serve_deployment_replica_failures_total", DEPLOYMENT)),
                    "{{deployment}}: {{cause}}",
                ),
            ),
            thresholds=(Threshold(1, "red"),),
        ),
        Panel(
            title="Time until a replica serves",
            description="From the decision to start one, p95; its constructor's part of it is what loads the model.",
            queries=(
                Query(
                    quantile(0.95, "serve_replica_startup_latency_ms", DEPLOYMENT, "deployment", "1h"),
                    "{{deployment}}: in all",
                ),
                Query(
                    quantile(0.95, "serve_replica_initialization_latency_ms", DEPLOYMENT, "deployment", "1h"),
                    "{{deployment}}: from the start of its process",
                ),
            ),
            unit="ms",
        ),
        Panel(
            title="Health checks",
            description="How long they take, p95.",
            queries=(
                Query(quantile(0.95, "serve_health_check_latency_ms", DEPLOYMENT, "deployment"), "{{deployment}}"),
            ),
            unit="ms",
        ),
        Panel(
            title="Health checks that failed",
            description="Too many in a row, and the replica is replaced.",
            queries=(
                Query(
                    total("replica", increase("serve_health_check_failures_total", REPLICA)),
                    "{{replica}}",
                ),
            ),
            thresholds=(Threshold(1, "red"),),
        ),
        Panel(
            title="Event loop blocked",
            description="For how long user code has not let the event loop turn. Such code belongs into a thread, or "
            "into a method without async.",
            queries=(Query(f"max by (replica) (serve_event_loop_blocked_seconds{{{REPLICA}}})", "{{replica}}"),),
            unit="s",
            thresholds=(Threshold(0.5, "yellow"), Threshold(5, "red")),
        ),
    )


def _queues() -> tuple[Panel, ...]:
    return (
        Panel(
            title="Running requests by replica",
            description="What each replica works on; max_ongoing_requests at most.",
            queries=(Query(total("replica", f"serve_replica_processing_queries{{{REPLICA}}}"), "{{replica}}"),),
            stacked=True,
        ),
        Panel(
            title="Waiting requests",
            description="Requests that wait, in proxies and in handles, for a replica with room.",
            queries=(
                Query(
                    total("deployment, actor_id", f"serve_deployment_queued_queries{{{DEPLOYMENT}}}"),
                    "{{deployment}}, at {{actor_id}}",
                ),
            ),
            stacked=True,
        ),
        Panel(
            title="Refused requests",
            description="Because max_queued_requests were waiting already: the deployment is overloaded.",
            queries=(
                Query(
                    total(BY_DEPLOYMENT, rate("serve_deployment_refused_requests_total", DEPLOYMENT)),
                    "{{application}} / {{deployment}}",
                ),
            ),
            unit="reqps",
            thresholds=(Threshold(0.01, "red"),),
        ),
    )


def _autoscaling() -> tuple[Panel, ...]:
    def of(name: str, what: str, quiet: str = NO_AUTOSCALING) -> Query:
        return Query(
            total("deployment", f"serve_autoscaling_{name}{{{DEPLOYMENT}}}"), f"{{{{deployment}}}}: {what}", quiet
        )

    return (
        Panel(
            title="Autoscaling",
            description="What the load, or the policy, asks for; what is wanted after bounds and delays; the bounds.",
            queries=(
                of("desired_replicas", "asked for"),
                of("target_replicas", "wanted", ""),
                of("min_replicas", "minimum"),
                of("max_replicas", "maximum"),
            ),
            width=12,
        ),
        Panel(
            title="Load per wanted replica",
            description="Requests that wait or run, for each replica that is wanted, beside target_ongoing_requests.",
            queries=(
                Query(
                    f"{total('deployment', f'serve_autoscaling_total_requests{{{DEPLOYMENT}}}')} / "
                    f"clamp_min({total('deployment', f'serve_autoscaling_target_replicas{{{DEPLOYMENT}}}')}, 1)",
                    "{{deployment}}: load",
                    NO_AUTOSCALING,
                ),
                of("target_ongoing_requests", "target"),
            ),
            width=12,
        ),
    )


def _processes() -> tuple[Panel, ...]:
    return (
        Panel(
            width=6,
            title="CPU by replica",
            description="Cores in use.",
            queries=(Query(total("replica", rate("process_cpu_seconds_total", REPLICA)), "{{replica}}"),),
        ),
        Panel(
            width=6,
            title="Memory by replica",
            description="Resident memory. What rises for hours is a leak.",
            queries=(Query(total("replica", f"process_resident_memory_bytes{{{REPLICA}}}"), "{{replica}}"),),
            unit="bytes",
        ),
        Panel(
            width=6,
            title="How full replicas are",
            description="Share of max_ongoing_requests that was taken, over ten minutes.",
            queries=(Query(f"max by (replica) (serve_replica_utilization_percent{{{REPLICA}}})", "{{replica}}"),),
            unit="percent",
            maximum=100,
        ),
        Panel(
            width=6,
            title="Tasks by replica",
            description="Tasks of the event loop that are not done.",
            queries=(
                Query(
                    'sum by (actor_id) (serve_event_loop_tasks{component="replica", actor_id=~"$replica"})',
                    "{{actor_id}}",
                ),
            ),
        ),
    )


def _batching() -> tuple[Panel, ...]:
    by = "deployment, function_name"
    legend = "{{deployment}}.{{function_name}}"
    return (
        Panel(
            title="Average batch",
            description="Requests per batch. About 1: batching costs its wait and brings nothing.",
            queries=(Query(mean("serve_actual_batch_size", REPLICA, by), legend, NO_BATCHING),),
        ),
        Panel(
            title="How full batches are",
            description="Average, in percent of max_batch_size.",
            queries=(Query(mean("serve_batch_utilization_percent", REPLICA, by), legend, NO_BATCHING),),
            unit="percent",
            maximum=100,
        ),
        Panel(
            title="Waiting for a batch",
            description="Requests that wait for their batch to start.",
            queries=(Query(total(by, f"serve_batch_queue_length{{{REPLICA}}}"), legend, NO_BATCHING),),
        ),
        Panel(
            title="Wait until a batch starts",
            description="p95; batch_wait_timeout_s bounds it while replicas have room.",
            queries=(Query(quantile(0.95, "serve_batch_wait_time_ms", REPLICA, by), legend, NO_BATCHING),),
            unit="ms",
        ),
        Panel(
            title="Time that batches run",
            description="p95.",
            queries=(Query(quantile(0.95, "serve_batch_execution_time_ms", REPLICA, by), legend, NO_BATCHING),),
            unit="ms",
        ),
        Panel(
            title="Batches",
            description="Batches per second.",
            queries=(Query(total(by, rate("serve_batches_processed_total", REPLICA)), legend, NO_BATCHING),),
            unit="ops",
        ),
    )


def _models() -> tuple[Panel, ...]:
    loads = "serve_multiplexed_models_load_counter_total"
    asked = "serve_multiplexed_get_model_requests_counter_total"
    return (
        Panel(
            title="Loaded models by replica",
            description="max_num_models_per_replica at most.",
            queries=(Query(total("replica", f"serve_num_multiplexed_models{{{REPLICA}}}"), "{{replica}}", NO_MODELS),),
        ),
        Panel(
            title="Models that had to be loaded",
            description="Share of requests for a model that found it not loaded. High: replicas have room for too few.",
            queries=(
                Query(
                    f"{total('deployment', rate(loads, REPLICA))} / {total('deployment', rate(asked, REPLICA))}",
                    "{{deployment}}",
                    NO_MODELS,
                ),
            ),
            unit="percentunit",
            maximum=1,
            thresholds=_FULL,
        ),
        Panel(
            title="Time to load a model",
            description="p95.",
            queries=(
                Query(
                    quantile(0.95, "serve_multiplexed_model_load_latency_ms", REPLICA, "deployment"),
                    "{{deployment}}",
                    NO_MODELS,
                ),
            ),
            unit="ms",
        ),
    )
