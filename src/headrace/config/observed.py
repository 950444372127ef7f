"""What processes tell the controller of the work that they do and have done, for people who look at it.

Arrays on the wire: one such answer comes from every process every two seconds while somebody looks.
"""

from __future__ import annotations

import msgspec


class CallsTo(msgspec.Struct, array_like=True):
    """What a process has asked of a deployment. `submitted`, `refused`: since it began; `queued`: at this moment."""

    app: str
    deployment: str
    submitted: int
    refused: int
    queued: int


class Tally(msgspec.Struct, array_like=True):
    """What a process has counted since it began.

    Attributes:
        counting_s: for how long it has counted, seconds.
        ongoing: requests that it works on now.
        failed: requests that ended with an exception, or were cancelled.
        latencies: how many requests have ended, by bucket of `observe.buckets.LATENCY_MS`; empty for a proxy.
        calls: what it asks of others.
    """

    counting_s: float
    ongoing: int = 0
    failed: int = 0
    latencies: list[int] = []
    calls: list[CallsTo] = []


class EndedRequest(msgspec.Struct, array_like=True):
    """A request that a replica, or a proxy, is done with.

    Attributes:
        ended: Unix time, seconds.
        took_s: from its arrival there to the end of its answer.
        failure: name of the exception that it ended with; None for none.
        method: a replica's method, or of HTTP.
        app, status: of a proxy: whose route it was, and how it was answered.
    """

    request_id: str
    ended: float
    took_s: float
    failure: str | None
    method: str
    route: str
    app: str = ""
    status: int | None = None


class Wait(msgspec.Struct, array_like=True):
    """A request that had to wait at its caller for a replica with room. `sent`: when that ended, Unix time."""

    request_id: str
    app: str
    deployment: str
    sent: float
    waited_s: float


class EndedQuery(msgspec.Struct, kw_only=True):
    """Which ended requests are asked for: those with one of `ids`, or without these, the first `limit` of a kind.

    Attributes:
        kind: "slow" (slowest first), "failed" or "recent" (latest first).
        app: those of this application only; of all if empty.
        within_s: those that have ended so long ago at most, seconds.
    """

    kind: str = "recent"
    limit: int = 50
    app: str = ""
    ids: list[str] = []
    within_s: float = 600.0


class Ended(msgspec.Struct, array_like=True):
    """What a process tells of such requests. `waits`: of those with the ids that were asked for. `targets`: what the
    process calls at all, as "<app>/<deployment>"."""

    requests: list[EndedRequest] = []
    waits: list[Wait] = []
    targets: list[str] = []
