"""What a process asks of deployments, as its routers have counted it."""

from __future__ import annotations

from collections.abc import Collection

from headrace.config.observed import CallsTo, Wait
from headrace.router.hub import RouterHub


def calls_to(hub: RouterHub) -> list[CallsTo]:
    """May be called on any thread."""
    return [
        CallsTo(router.app, router.deployment, router.submitted, router.refused, router.queued)
        for router in list(hub.known_routers())
    ]


def targets(hub: RouterHub) -> list[str]:
    """What is called from here, as "<app>/<deployment>". May be called on any thread."""
    return [f"{router.app}/{router.deployment}" for router in list(hub.known_routers())]


def waits(hub: RouterHub, ids: Collection[str], to_unix: float) -> list[Wait]:
    """Of the requests with these ids, those that have waited. May be called on any thread.

    Args:
        to_unix: what makes a Unix time of `time.monotonic()`, seconds.
    """
    wanted = frozenset(ids)
    return [
        Wait(request_id, router.app, router.deployment, sent + to_unix, waited_s)
        for router in list(hub.known_routers())
        # In one step, so that the router's thread adds none meanwhile.
        for request_id, sent, waited_s in tuple(router.waits)
        if request_id in wanted
    ]
