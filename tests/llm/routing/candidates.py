"""Replicas and requests as routing policies see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st


@dataclass
class Replica:
    replica_id: str
    load: int = 0
    free: bool = True
    model_ids: frozenset[str] = frozenset()
    node: str = ""


@dataclass(frozen=True)
class Request:
    routing_hint: Any = None
    session_id: str = ""
    multiplexed_model_id: str = ""
    method: str = "respond"


@st.composite
def replica_sets(draw: st.DrawFn) -> list[Replica]:
    names = draw(st.sets(st.sampled_from("abcdefg")))
    return [
        Replica(name, draw(st.integers(0, 30)), draw(st.booleans()), draw(st.frozensets(st.sampled_from("xy"))))
        for name in sorted(names)
    ]
