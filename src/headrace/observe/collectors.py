"""What this process has to tell when it is scraped: its own counters, its users' metrics, and whatever libraries have
put into Prometheus' default registry.

Nothing runs between scrapes: the request path adds to plain integers, and collectors make samples of them when asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from headrace.observe.exposition import Family, render

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

logger = logging.getLogger("headrace.observe")

Collect = Callable[[], "Iterable[Metric]"]

_own: list[tuple[Collect, bool]] = []
_users: list[CollectorRegistry] = []
_told: set[str] = set()


def add_collector(collect: Collect, labelled: bool = False) -> None:
    """Have `collect` called at every scrape, from any thread. What it raises costs only its own metrics.

    Args:
        labelled: its series have all their labels; others get those of the process.
    """
    _own.append((collect, labelled))


def add_user_registry(registry: CollectorRegistry) -> None:
    """Export the metrics of a registry with the instance's prefix; its series have all their labels."""
    _users.append(registry)


def collect_process(prefix: str, labels: dict[str, str]) -> list[Family]:
    """Everything that this process has to tell.

    Args:
        prefix: of the names of Headrace's and of its users' metrics; libraries keep theirs.
        labels: what tells this process from others, for series that do not say it themselves.
    """
    import prometheus_client  # here: a process that is never scraped does without

    families: list[Family] = []
    for collect, labelled in [*_own, *((registry.collect, True) for registry in _users)]:
        families.extend(_rendered(collect, prefix, {} if labelled else labels))
    families.extend(_rendered(prometheus_client.REGISTRY.collect, "", labels))
    return families


def _rendered(collect: Collect, prefix: str, labels: dict[str, str]) -> Iterator[Family]:
    try:
        for metric in collect():
            family = render(metric, prefix, labels)
            if family is not None:
                yield family
    except Exception as error:
        problem = f"metrics of {collect!r} are left out: {type(error).__name__}: {error}"
        if problem not in _told:  # not at every scrape
            _told.add(problem)
            logger.warning("%s", problem)
