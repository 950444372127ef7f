"""When somebody should look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from headrace.observe.monitoring.description import Objectives
from headrace.observe.monitoring.queries import BY_DEPLOYMENT, increase, quantile, rate, share, total, with_prefix

JOB = "headrace"
"""What Prometheus calls the scraping of Headrace. Jobs named `headrace-…` find machines by themselves, and not each of
those has a proxy."""

_THIS = "{{ $labels.application }}/{{ $labels.deployment }}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """
    Attributes:
        expression: has a value while something is wrong; without the prefix of names.
        lasting: for how long it must be so, in Prometheus' words.
        severity: `critical` wakes somebody, `warning` waits until the morning.
        summary: what is wrong. `advice`: what to look at first.
    """

    name: str
    expression: str
    lasting: str
    severity: Literal["critical", "warning"]
    summary: str
    advice: str


def alerts(objectives: Objectives) -> tuple[Alert, ...]:
    return (*_requests(objectives), *_replicas(), *_load(), *_instance(), *_llm())


def rule_groups(objectives: Objectives, prefix: str) -> dict[str, Any]:
    """The alerts as Prometheus' rules."""
    rules = [
        {
            "alert": alert.name,
            "expr": with_prefix(alert.expression, prefix),
            "for": alert.lasting,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.summary, "description": alert.advice},
        }
        for alert in alerts(objectives)
    ]
    return {"groups": [{"name": "headrace", "rules": rules}]}


def _requests(objectives: Objectives) -> tuple[Alert, ...]:
    errors = share(
        total(BY_DEPLOYMENT, rate("serve_deployment_error_counter_total", 'exception_type!="CancelledError"', "5m")),
        total(BY_DEPLOYMENT, rate("serve_deployment_processing_latency_ms_count", "", "5m")),
    )
    refused = share(
        total("application, route", rate("serve_num_http_requests_total", 'route!="", status_code=~"5..|408"', "5m")),
        total("application, route", rate("serve_num_http_requests_total", 'route!=""', "5m")),
    )
    return (
        Alert(
            name="HeadraceErrorRate",
            expression=f"{errors} > {objectives.error_share:g}",
            lasting="5m",
            severity="critical",
            summary=f"{{{{ $value | humanizePercentage }}}} of the requests to {_THIS} fail",
            advice="The panel Exceptions tells which exception, the replicas' logs where. If it began with "
            "a deploy, `headrace rollback {{ $labels.application }}` returns to the one before.",
        ),
        Alert(
            name="HeadraceHttpErrorRate",
            expression=f"{refused} > {objectives.error_share:g}",
            lasting="5m",
            severity="critical",
            summary="{{ $value | humanizePercentage }} of the HTTP requests to {{ $labels.route }} get a 5xx or 408",
            advice="500: user code raises, see HeadraceErrorRate. 503: requests are refused, or there is no replica. "
            "408: request_timeout_s passes.",
        ),
        Alert(
            name="HeadraceLatencyP99",
            expression=quantile(0.99, "serve_deployment_processing_latency_ms", "", BY_DEPLOYMENT, "5m")
            + f" > {objectives.p99_ms:g}",
            lasting="10m",
            severity="warning",
            summary=f"The slowest of a hundred requests to {_THIS} takes {{{{ $value | humanize }}}} ms",
            advice="Is one replica slow (p99 by replica), is its event loop blocked, does it wait for another "
            "deployment, or are all of them full (running requests by replica)?",
        ),
    )


def _replicas() -> tuple[Alert, ...]:
    wanted = "serve_autoscaling_target_replicas"
    serving = "serve_deployment_replica_healthy_total"
    return (
        Alert(
            name="HeadraceNoHealthyReplica",
            expression=f"{total(BY_DEPLOYMENT, serving)} == 0 and {total(BY_DEPLOYMENT, wanted)} > 0",
            lasting="1m",
            severity="critical",
            summary=f"No replica of {_THIS} serves",
            advice="`headrace status` says what they wait for: resources, their constructor, or an error.",
        ),
        Alert(
            name="HeadraceReplicasMissing",
            expression=f"{total(BY_DEPLOYMENT, serving)} < {total(BY_DEPLOYMENT, wanted)}",
            lasting="15m",
            severity="warning",
            summary=f"Only {{{{ $value }}}} of the replicas that {_THIS} should have serve",
            advice="`headrace status` says what the others wait for. On Ray: are there nodes with the resources?",
        ),
        Alert(
            name="HeadraceCrashLoop",
            expression=f"{total(BY_DEPLOYMENT, increase('serve_deployment_replica_failures_total', '', '10m'))} > 2",
            lasting="0m",
            severity="critical",
            summary=f"Replicas of {_THIS} have failed {{{{ $value | humanize }}}} times in 10 minutes",
            advice="The panel 'Replicas that failed' says why: start, constructor, health or crash. A crash without a "
            "traceback in the logs is often the system's out-of-memory killer.",
        ),
        Alert(
            name="HeadraceDeployFailed",
            expression="serve_deployment_status == 1",
            lasting="1m",
            severity="critical",
            summary=f"The deploy of {_THIS} has failed",
            advice="`headrace status` has the error, with the end of the replica's log. `headrace rollback "
            "{{ $labels.application }}` returns to the deploy before.",
        ),
        Alert(
            name="HeadraceUnhealthy",
            expression="serve_deployment_status == 2",
            lasting="5m",
            severity="warning",
            summary=f"{_THIS} is unhealthy",
            advice="Replicas fail their health checks or end, and are replaced. See their logs.",
        ),
    )


def _load() -> tuple[Alert, ...]:
    desired, highest = "serve_autoscaling_desired_replicas", "serve_autoscaling_max_replicas"
    blocked = "max by (application, deployment, replica) (serve_event_loop_blocked_seconds)"
    return (
        Alert(
            name="HeadraceSaturatedAtMaxReplicas",
            expression=f"{total(BY_DEPLOYMENT, desired)} > {total(BY_DEPLOYMENT, highest)}",
            lasting="10m",
            severity="warning",
            summary=f"{_THIS} has all replicas that it may have, and its load asks for {{{{ $value | humanize }}}}",
            advice="Raise max_replicas, or make requests cheaper. `headrace simulate autoscaling` shows what a higher "
            "maximum would do.",
        ),
        Alert(
            name="HeadraceRequestsRefused",
            expression=f"{total(BY_DEPLOYMENT, rate('serve_deployment_refused_requests_total', '', '5m'))} > 0",
            lasting="5m",
            severity="warning",
            summary=f"{_THIS} refuses {{{{ $value | humanize }}}} requests per second",
            advice="More come than its replicas can answer: add replicas, raise max_replicas, or max_queued_requests "
            "where waiting is better than being refused.",
        ),
        Alert(
            name="HeadraceEventLoopBlocked",
            expression=f"{blocked} > 5",
            lasting="1m",
            severity="warning",
            summary="User code blocks the event loop of {{ $labels.replica }} for {{ $value | humanizeDuration }}",
            advice="An async method computes, or waits without await: make it a plain method, which runs in a thread, "
            "or use asyncio.to_thread.",
        ),
    )


def _instance() -> tuple[Alert, ...]:
    return (
        Alert(
            name="HeadraceDown",
            expression=f'up{{job="{JOB}"}} == 0 or max by (job) (up{{job=~"{JOB}-.+"}}) == 0',
            lasting="1m",
            severity="critical",
            summary="Nothing answers Prometheus: {{ $labels.job }} {{ $labels.instance }}",
            advice="Does the instance run (`headrace status`), and does its proxy listen where Prometheus reaches it "
            "(http_options.host)?",
        ),
        Alert(
            name="HeadraceProcessesUnanswered",
            expression="max by (instance) (serve_metrics_unanswered) > 0",
            lasting="5m",
            severity="warning",
            summary="{{ $value }} processes on {{ $labels.instance }} do not answer scrapes",
            advice="They are stopped, or their code keeps Python's interpreter lock for long.",
        ),
    )


def _llm() -> tuple[Alert, ...]:
    by_replica = "application, deployment, replica, model"
    return (
        Alert(
            name="HeadraceLlmKvCacheFull",
            expression=f"max by ({by_replica}) (serve_llm_kv_cache_use) > 0.95",
            lasting="10m",
            severity="warning",
            summary="The KV cache of {{ $labels.model }} in {{ $labels.replica }} is full",
            advice="Requests wait, or are interrupted and begun again: add replicas, give the engine more memory, or "
            "bound max_model_len.",
        ),
        Alert(
            name="HeadraceLlmRequestsWait",
            expression=f"{total(by_replica, 'serve_llm_requests_waiting')} > "
            f"clamp_min({total(by_replica, 'serve_llm_requests_running')}, 1)",
            lasting="10m",
            severity="warning",
            summary="More requests wait than run in {{ $labels.replica }}: {{ $value }}",
            advice="Time to first token suffers: add replicas, or let autoscaling go by the queue.",
        ),
    )
