"""Which application a path belongs to: the one with the longest route prefix that the path begins with."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.config.spec import RouteEntry


class RouteMatcher:
    """Matches by whole path segments: `/a` takes `/a`, `/a/` and `/a/b`, not `/ab`. Costs a look-up per segment of the
    path, however many routes there are."""

    def __init__(self, routes: Iterable[RouteEntry]) -> None:
        self._by_prefix = {entry.route_prefix.rstrip("/"): entry for entry in routes}

    def match(self, path: str) -> RouteEntry | None:
        """The route of a path, None where no prefix fits."""
        by_prefix = self._by_prefix
        prefix = path
        while prefix:
            entry = by_prefix.get(prefix)
            if entry is not None:
                return entry
            prefix = prefix[: prefix.rindex("/")] if "/" in prefix else ""
        return by_prefix.get("")

    def as_dict(self) -> dict[str, str]:
        """Route prefix to application name, as `/-/routes` shows it."""
        return {entry.route_prefix: entry.app for entry in sorted(self._by_prefix.values(), key=_by_prefix_name)}


def _by_prefix_name(entry: RouteEntry) -> str:
    return entry.route_prefix
