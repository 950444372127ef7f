"""The path under which an application answers."""

from __future__ import annotations

from typing import Any

from headrace.config.problems import shown
from headrace.exceptions import ConfigError


def check_route_prefix(route_prefix: str | None) -> str | None:
    """The route prefix, if it can be one; None is an application without HTTP.

    Raises:
        ConfigError: it does not start with `/`, ends with one, or has `{`, `}`, `?` or `#` in it.
    """
    problem = route_prefix_problem(route_prefix)
    if problem is not None:
        raise ConfigError(f"route_prefix: {problem}")
    return route_prefix


def route_prefix_problem(route_prefix: Any) -> str | None:
    """What is wrong with a route prefix, or None."""
    if route_prefix is None or route_prefix == "/":
        return None
    if not isinstance(route_prefix, str):
        return f"must be a string such as '/prefix', or None for no HTTP, not {shown(route_prefix)}"
    wildcard = next((character for character in "{}?#" if character in route_prefix), None)
    if wildcard is not None:
        return f"must not contain '{wildcard}', but is {shown(route_prefix)}; path parameters belong in the ingress"
    if not route_prefix.startswith("/") or route_prefix.endswith("/"):
        return f"must start with '/' and not end with it: '/{route_prefix.strip('/')}', not {shown(route_prefix)}"
    return None
