"""The first look: is everything well, and if not, where."""

from __future__ import annotations

from headrace.observe.monitoring.description import (
    Annotation,
    Column,
    Dashboard,
    Objectives,
    Panel,
    Query,
    Row,
    Threshold,
    Variable,
)
from headrace.observe.monitoring.queries import (
    APPLICATION,
    BY_DEPLOYMENT,
    increase,
    mean,
    quantile,
    rate,
    share,
    total,
)

DEPLOYMENT_STATUSES = {
    0: ("unknown", "text"),
    1: ("DEPLOY_FAILED", "red"),
    2: ("UNHEALTHY", "red"),
    3: ("UPDATING", "blue"),
    4: ("UPSCALING", "blue"),
    5: ("DOWNSCALING", "blue"),
    6: ("HEALTHY", "green"),
}

_LEGEND = "{{application}} / {{deployment}}"
_NO_FAULTS = "nothing fails"

APPLICATION_VARIABLE = Variable("application", "Application", "serve_deployment_status", "application")


def latency_thresholds(objectives: Objectives) -> tuple[Threshold, ...]:
    return (Threshold(objectives.p99_ms / 2, "yellow"), Threshold(objectives.p99_ms, "red"))


def error_thresholds(objectives: Objectives) -> tuple[Threshold, ...]:
    return (Threshold(objectives.error_share / 5, "yellow"), Threshold(objectives.error_share, "red"))


def errors(by: str, where: str) -> str:
    """The share of a replica's requests that end with an exception."""
    return share(
        total(by, rate("serve_deployment_error_counter_total", where)),
        total(by, rate("serve_deployment_processing_latency_ms_count", where)),
    )


def marks(where: str) -> tuple[Annotation, ...]:
    """Deploys, failures and decisions of the autoscaler."""
    return (
        Annotation(
            "Update",
            Query(f"serve_deployment_status{{{where}}} == 3", _LEGEND, "no deployment is being updated"),
            "blue",
        ),
        Annotation(
            "Replica failed",
            Query(
                f"{total(f'{BY_DEPLOYMENT}, cause', increase('serve_deployment_replica_failures_total', where))} > 0",
                f"{_LEGEND}: {{{{cause}}}}",
                _NO_FAULTS,
            ),
            "red",
        ),
        Annotation(
            "Scaled",
            Query(
                f"delta(serve_autoscaling_target_replicas{{{where}}}[$__rate_interval]) != 0",
                f"{_LEGEND}",
                "no target changes",
            ),
            "purple",
            shown=False,
        ),
    )


def overview(objectives: Objectives) -> Dashboard:
    return Dashboard(
        uid="headrace-overview",
        title="Headrace / Overview",
        description="All applications: traffic, latency, errors, replicas.",
        variables=(APPLICATION_VARIABLE,),
        rows=(
            Row("At a glance", _glance(objectives)),
            Row("Deployments", (*_deployments(objectives), _table(objectives))),
            Row("HTTP, as clients see it", _http(objectives)),
            Row("Processes", _processes(), collapsed=True),
        ),
        annotations=marks(APPLICATION),
    )


def _glance(objectives: Objectives) -> tuple[Panel, ...]:
    requests = f"serve_num_http_requests_total{{{APPLICATION}}}"
    failed = f'serve_num_http_requests_total{{{APPLICATION}, status_code=~"5.."}}'
    healthy = f"sum(serve_deployment_replica_healthy_total{{{APPLICATION}}})"
    wanted = f"sum(serve_autoscaling_target_replicas{{{APPLICATION}}})"
    return (
        _stat("Requests", "HTTP requests per second.", f"sum(rate({requests}[$__rate_interval]))", "reqps"),
        _stat(
            "Failing",
            "Share of HTTP requests that are answered with 5xx.",
            share(f"sum(rate({failed}[$__rate_interval]))", f"sum(rate({requests}[$__rate_interval]))"),
            "percentunit",
            error_thresholds(objectives),
        ),
        _stat(
            "p99",
            "The slowest of a hundred HTTP requests, from its head to the end of its answer.",
            quantile(0.99, "serve_http_request_latency_ms", APPLICATION),
            "ms",
            latency_thresholds(objectives),
        ),
        _stat("Replicas", "Replicas that serve.", healthy),
        _stat(
            "Missing replicas",
            "How many replicas should serve and do not: they start, or fail.",
            f"clamp_min({wanted} - {healthy}, 0)",
            thresholds=(Threshold(1, "yellow"), Threshold(3, "red")),
        ),
        _stat(
            "Waiting",
            "Requests that wait for a replica with room.",
            f"sum(serve_deployment_queued_queries{{{APPLICATION}}})",
            thresholds=(Threshold(10, "yellow"), Threshold(100, "red")),
        ),
    )


def _stat(
    title: str, description: str, expression: str, unit: str = "short", thresholds: tuple[Threshold, ...] = ()
) -> Panel:
    return Panel(
        title=title,
        description=description,
        queries=(Query(expression, title),),
        unit=unit,
        kind="stat",
        width=4,
        height=5,
        thresholds=thresholds,
    )


def _deployments(objectives: Objectives) -> tuple[Panel, ...]:
    return (
        Panel(
            title="Request Latency (p99)",
            description="At the replicas: from a replica's taking a request to the end of its answer.",
            queries=(
                Query(quantile(0.99, "serve_deployment_processing_latency_ms", APPLICATION, BY_DEPLOYMENT), _LEGEND),
            ),
            unit="ms",
            thresholds=latency_thresholds(objectives),
        ),
        Panel(
            title="Throughput (req/s)",
            description="Requests that replicas answer without an exception.",
            queries=(
                Query(total(BY_DEPLOYMENT, rate("serve_deployment_request_counter_total", APPLICATION)), _LEGEND),
            ),
            unit="reqps",
        ),
        Panel(
            title="Active Replicas",
            description="Replicas that serve.",
            queries=(Query(total(BY_DEPLOYMENT, f"serve_deployment_replica_healthy_total{{{APPLICATION}}}"), _LEGEND),),
        ),
        Panel(
            title="Errors",
            description="Share of requests that end with an exception in a replica.",
            queries=(Query(errors(BY_DEPLOYMENT, APPLICATION), _LEGEND),),
            unit="percentunit",
            thresholds=error_thresholds(objectives),
        ),
        Panel(
            title="Waiting requests",
            description="Requests that wait, in proxies and in handles, for a replica with room.",
            queries=(Query(total(BY_DEPLOYMENT, f"serve_deployment_queued_queries{{{APPLICATION}}}"), _LEGEND),),
        ),
        Panel(
            title="Replicas that failed",
            description="By why: start, constructor, health or crash.",
            queries=(
                Query(
                    total(f"{BY_DEPLOYMENT}, cause", increase("serve_deployment_replica_failures_total", APPLICATION)),
                    f"{_LEGEND}: {{{{cause}}}}",
                ),
            ),
            thresholds=(Threshold(1, "red"),),
        ),
    )


def _table(objectives: Objectives) -> Panel:
    columns = (
        (Column("Status", texts=DEPLOYMENT_STATUSES), f"serve_deployment_status{{{APPLICATION}}}"),
        (Column("Replicas"), f"serve_deployment_replica_healthy_total{{{APPLICATION}}}"),
        (Column("Target"), f"serve_autoscaling_target_replicas{{{APPLICATION}}}"),
        (Column("Requests/s", "reqps"), rate("serve_deployment_processing_latency_ms_count", APPLICATION)),
        (
            Column("p99", "ms", latency_thresholds(objectives)),
            quantile(0.99, "serve_deployment_processing_latency_ms", APPLICATION, BY_DEPLOYMENT),
        ),
        (Column("Errors", "percentunit", error_thresholds(objectives)), errors(BY_DEPLOYMENT, APPLICATION)),
        (Column("Waiting", thresholds=(Threshold(10, "yellow"),)), f"serve_deployment_queued_queries{{{APPLICATION}}}"),
        (Column("Running"), f"serve_replica_processing_queries{{{APPLICATION}}}"),
    )
    return Panel(
        title="All deployments",
        description="A click on a deployment leads to its own dashboard.",
        queries=tuple(
            Query(query if "by (" in query else total(BY_DEPLOYMENT, query), column.title) for column, query in columns
        ),
        kind="table",
        width=24,
        height=10,
        columns=tuple(column for column, _ in columns),
    )


def _http(objectives: Objectives) -> tuple[Panel, ...]:
    latency = "serve_http_request_latency_ms"
    return (
        Panel(
            title="Answers by status",
            description="499: the client left before it had its answer. Without a route: no application is there.",
            queries=(
                Query(
                    total("status_code", rate("serve_num_http_requests_total", APPLICATION)),
                    "{{status_code}}",
                ),
            ),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            title="Latency by percentile",
            description="From a request's head to the end of its answer, at the proxy.",
            queries=tuple(
                Query(quantile(part, latency, APPLICATION), f"p{part * 100:g}") for part in (0.5, 0.9, 0.95, 0.99)
            ),
            unit="ms",
            thresholds=latency_thresholds(objectives),
        ),
        Panel(
            title="p99 by route",
            description="From a request's head to the end of its answer, at the proxy.",
            queries=(Query(quantile(0.99, latency, APPLICATION, "application, route"), "{{route}}"),),
            unit="ms",
            thresholds=latency_thresholds(objectives),
        ),
        Panel(
            title="Requests by route",
            description="HTTP requests per second.",
            queries=(
                Query(
                    total("application, route", rate("serve_num_http_requests_total", APPLICATION)),
                    "{{route}}",
                ),
            ),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            title="Refused requests",
            description="Because max_queued_requests were waiting already: the deployment is overloaded.",
            queries=(
                Query(
                    total(BY_DEPLOYMENT, rate("serve_deployment_refused_requests_total", APPLICATION)),
                    _LEGEND,
                ),
            ),
            unit="reqps",
            thresholds=(Threshold(0.01, "red"),),
        ),
        Panel(
            title="Requests under way",
            description="HTTP requests and WebSockets, by proxy.",
            queries=(Query("serve_num_ongoing_http_requests", "{{instance}} {{actor_id}}"),),
            stacked=True,
        ),
    )


def _processes() -> tuple[Panel, ...]:
    # Of the Python client's own metrics only those of processes that have Headrace's labels.
    controllers = 'actor_id!=""'
    return (
        Panel(
            title="CPU of proxies and controller",
            description="Cores in use; a proxy that uses a whole one is full: raise num_proxies.",
            queries=(
                Query(
                    total("instance, actor_id", rate("process_cpu_seconds_total", controllers)),
                    "{{instance}} {{actor_id}}",
                ),
            ),
            unit="short",
            thresholds=(Threshold(0.8, "yellow"), Threshold(0.95, "red")),
        ),
        Panel(
            title="Memory of proxies and controller",
            description="Resident memory.",
            queries=(
                Query(
                    total("instance, actor_id", f"process_resident_memory_bytes{{{controllers}}}"),
                    "{{instance}} {{actor_id}}",
                ),
            ),
            unit="bytes",
        ),
        Panel(
            title="Event loops",
            description="How long an event loop takes to turn, on average, measured at scrapes and health checks.",
            queries=(Query(mean("serve_event_loop_scheduling_latency_ms", "", "component, actor_id"), "{{actor_id}}"),),
            unit="ms",
            thresholds=(Threshold(50, "yellow"), Threshold(250, "red")),
        ),
        Panel(
            title="Processes without an answer",
            description="Processes that did not answer the last scrape in time and are not in it.",
            queries=(Query("max by (instance) (serve_metrics_unanswered)", "{{instance}}"),),
            thresholds=(Threshold(1, "red"),),
        ),
        Panel(
            title="The controller's looks",
            description="How often per second the controller looks at what is to be done.",
            queries=(Query("sum(rate(serve_controller_num_control_loops_total[$__rate_interval]))", "looks"),),
            unit="ops",
        ),
    )
