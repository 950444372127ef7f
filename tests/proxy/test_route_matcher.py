"""Matching a path against the route prefixes, beside the obvious way to do it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.config.spec import RouteEntry
from headrace.proxy.routes import RouteMatcher

segments = st.sampled_from(["a", "b", "ab", "-", "ü", ""])
prefixes = st.just("/") | st.lists(segments.filter(bool), min_size=1, max_size=4).map(lambda made: "/" + "/".join(made))
paths = st.lists(segments, max_size=6).map(lambda made: "/" + "/".join(made))


def naive(prefixes: list[str], path: str) -> str | None:
    fitting = [prefix for prefix in prefixes if prefix == "/" or path == prefix or path.startswith(prefix + "/")]
    return max(fitting, key=len, default=None)


@given(st.lists(prefixes, unique=True, max_size=8), paths)
def test_the_longest_prefix_of_whole_segments_wins(known: list[str], path: str) -> None:
    matcher = RouteMatcher(RouteEntry(app=f"app of {prefix}", route_prefix=prefix, ingress="x") for prefix in known)
    found = matcher.match(path)
    assert (found.route_prefix if found is not None else None) == naive(known, path)
    assert matcher.as_dict() == {prefix: f"app of {prefix}" for prefix in sorted(known)}


@given(st.lists(prefixes, unique=True, max_size=5), st.text(max_size=20))
def test_no_path_makes_it_raise(known: list[str], path: str) -> None:
    RouteMatcher(RouteEntry(app="a", route_prefix=prefix, ingress="x") for prefix in known).match(path)
