"""The frameworks that the suite knows: one file each."""

from __future__ import annotations

from collections.abc import Sequence

from bench.peer import Peer
from bench.peers.bentoml import BENTOML
from bench.peers.headrace import HEADRACE
from bench.peers.litserve import LITSERVE
from bench.peers.mosec import MOSEC
from bench.peers.ray import RAY, RAY_FAST
from bench.peers.uvicorn import FASTAPI, STARLETTE

PEERS: tuple[Peer, ...] = (HEADRACE, RAY, RAY_FAST, MOSEC, LITSERVE, BENTOML, FASTAPI, STARLETTE)


def select_peers(names: Sequence[str]) -> list[Peer]:
    """The peers of these names ("all" for every one), in the suite's order. Raises ValueError for an unknown name."""
    known = {peer.name: peer for peer in PEERS}
    for name in names:
        if name != "all" and name not in known:
            raise ValueError(f"no peer is called {name!r}; there are: all, {', '.join(known)}")
    return [peer for peer in PEERS if "all" in names or peer.name in names]
