"""Single requests on their way through the application: what proxies and replicas tell of them, joined by their ids."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from headrace.config.observed import Ended, EndedQuery, EndedRequest, Wait
from headrace.controller.observed.sampler import PROXY, Process, Sampler

KINDS = ("slow", "failed", "recent")

_ANSWER_WITHIN_S = 1.0

_CLOCKS_S = 0.05
"""By how much the clocks of two machines may differ without a call seeming to be before its caller."""


class Span(msgspec.Struct):
    """A request's stay at one process."""

    process: Process
    request: EndedRequest

    @property
    def began(self) -> float:
        return self.request.ended - self.request.took_s


async def requests(sampler: Sampler, kind: str, app: str, limit: int) -> dict[str, Any]:
    """The first `limit` requests of a kind with all that is still known of them; takes three seconds at the most.

    Processes are asked twice: which are theirs, and then for what they know of those that it came down to.
    """
    processes = await sampler.processes()
    of_app = [p for p in processes if not app or p.deployment == PROXY or p.deployment.partition("/")[0] == app]
    query = EndedQuery(kind=kind, limit=limit, app=app)
    found = await _asked(sampler, of_app, query)
    ids = first_ids(kind, [request for ended in found.values() if ended for request in ended.requests], limit)
    answering = [process for process in processes if found.get(process, True) is not None]
    details = await _asked(sampler, answering, EndedQuery(ids=ids)) if ids else {}
    spans = [Span(p, request) for p, ended in details.items() if ended for request in ended.requests]
    waits = [wait for ended in details.values() if ended for wait in ended.waits]
    edges = {(process.deployment, to) for process, ended in details.items() if ended for to in ended.targets}
    told = [waterfall(spans_of, waits, edges) for spans_of in by_request(spans, ids)]
    silent = len(processes) - len(answering) + sum(ended is None for ended in details.values())
    # What user code has caught has failed no request.
    wanted = [each for each in told if each is not None and (kind != "failed" or each["failure"] is not None)]
    return {"requests": _in_order(kind, wanted), "unanswered": silent}


async def _asked(sampler: Sampler, processes: list[Process], query: EndedQuery) -> dict[Process, Ended | None]:
    answers = await asyncio.gather(
        *(sampler.peers.ask(process.address, "ended", query, _ANSWER_WITHIN_S, Ended) for process in processes)
    )
    return dict(zip(processes, answers, strict=True))


def first_ids(kind: str, found: Iterable[EndedRequest], limit: int) -> list[str]:
    """The ids of the first `limit` requests of a kind, of what each process has named. A request that came over HTTP
    took as long as it took at the proxy, and not as one part of it."""
    requests: dict[str, EndedRequest] = {}
    for request in found:
        known = requests.get(request.request_id)
        if known is None or (request.status is not None, request.took_s) > (known.status is not None, known.took_s):
            requests[request.request_id] = request
    ordered = sorted(requests.values(), key=lambda r: r.took_s if kind == "slow" else r.ended, reverse=True)
    return [request.request_id for request in ordered[:limit] if request.request_id]


def by_request(spans: Iterable[Span], ids: Iterable[str]) -> list[list[Span]]:
    found: dict[str, list[Span]] = {id: [] for id in ids}
    for span in spans:
        if span.request.request_id in found:
            found[span.request.request_id].append(span)
    return list(found.values())


def waterfall(spans: list[Span], waits: Iterable[Wait], edges: Collection[tuple[str, str]]) -> dict[str, Any] | None:
    """One request as it is told; None where nothing is known of it any more.

    Args:
        edges: who calls whom: by that and by the times it is told who made a call.
    """
    if not spans:
        return None
    roots = [span for span in spans if span.process.deployment == PROXY]
    # A client that sends the same id again makes several of one: the last one is told.
    root = max(roots, key=lambda span: span.request.ended, default=None)
    inner = sorted((span for span in spans if span.process.deployment != PROXY), key=lambda span: span.began)
    if root is not None:
        inner = [span for span in inner if root.began - _CLOCKS_S <= span.began <= root.request.ended + _CLOCKS_S]
        began, ended = root.began, root.request.ended
        app, route, failure = root.request.app, root.request.route, root.request.failure
    else:
        began, ended = inner[0].began, max(span.request.ended for span in inner)
        first = inner[0]
        app, route, failure = first.process.deployment.partition("/")[0], first.request.route, first.request.failure
    if root is not None and failure is not None and failure.startswith("HTTP "):
        # Where it came from says more than how it was answered.
        failure = next((span.request.failure for span in reversed(inner) if span.request.failure), failure)
    waiting = list(waits)
    return {
        "request_id": spans[0].request.request_id,
        "app": app,
        "route": route,
        "method": root.request.method if root is not None else None,
        "began": round(began, 6),
        "duration_ms": _ms(ended - began),
        "status": root.request.status if root is not None else None,
        "failure": failure,
        "spans": [_told(span, inner, root, waiting, edges) for span in inner],
    }


def _told(
    span: Span, spans: list[Span], root: Span | None, waits: list[Wait], edges: Collection[tuple[str, str]]
) -> dict[str, Any]:
    app, _, deployment = span.process.deployment.partition("/")
    request = span.request
    return {
        "app": app,
        "deployment": deployment,
        "replica_id": span.process.name,
        "method": request.method,
        "began": round(span.began, 6),
        "duration_ms": _ms(request.took_s),
        "queued_ms": _queued_ms(span, waits),
        "failure": request.failure,
        "caller": _caller(span, spans, root, edges),
    }


def _queued_ms(span: Span, waits: list[Wait]) -> float | None:
    """How long it had waited at its caller; the wait that ended last before the replica began is this one's."""
    own = [
        wait
        for wait in waits
        if wait.request_id == span.request.request_id
        and f"{wait.app}/{wait.deployment}" == span.process.deployment
        and wait.sent <= span.began + _CLOCKS_S
    ]
    if not own:
        return None
    wait = max(own, key=lambda wait: wait.sent)
    waits.remove(wait)
    return _ms(wait.waited_s)


def _caller(span: Span, spans: list[Span], root: Span | None, edges: Collection[tuple[str, str]]) -> str | None:
    """Who made this call: what calls that deployment and was at work when it began; None where that may be several."""
    to = span.process.deployment
    callers = {
        other.process.deployment
        for other in spans
        if other is not span
        and (other.process.deployment, to) in edges
        and other.began <= span.began <= other.request.ended
    }
    if not callers and root is not None and (PROXY, to) in edges:
        return PROXY
    return callers.pop() if len(callers) == 1 else None


def _in_order(kind: str, told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if kind == "slow":
        return sorted(told, key=lambda request: -request["duration_ms"])
    return sorted(told, key=lambda request: -(request["began"] + request["duration_ms"] / 1000))


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
