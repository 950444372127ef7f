"""The frameworks that the suite knows: one file each."""

from __future__ import annotations

from collections.abc import Sequence

from bench.peer import Peer
from bench.peers.bentoml import BENTOML
from bench.peers.headrace import HEADRACE, HEADRACE_RAY, HEADRACE_RAY_3
from bench.peers.litserve import LITSERVE
from bench.peers.mosec import MOSEC
from bench.peers.ray import RAY, RAY_3, RAY_FAST, RAY_FAST_3
from bench.peers.uvicorn import FASTAPI, STARLETTE

PEERS: tuple[Peer, ...] = (
    HEADRACE,
    RAY,
    RAY_FAST,
    MOSEC,
    LITSERVE,
    BENTOML,
    FASTAPI,
    STARLETTE,
    HEADRACE_RAY,
    HEADRACE_RAY_3,
    RAY_3,
    RAY_FAST_3,
)


def select_peers(names: Sequence[str]) -> list[Peer]:
    """The peers of these names, in the suite's order: "all" for every one on one machine, "cluster" for those on Ray
    clusters. Raises ValueError for an unknown name."""
    known = {peer.name: peer for peer in PEERS}
    groups = {"all": "", "cluster": "cluster"}
    for name in names:
        if name not in known and name not in groups:
            raise ValueError(f"no peer is called {name!r}; there are: {', '.join((*groups, *known))}")
    kinds = {groups[name] for name in names if name in groups}
    return [peer for peer in PEERS if peer.kind in kinds or peer.name in names]
