"""Ranks without gaps, as pure functions: replicas 0 to n - 1, whichever of them have been stopped meanwhile; so too the
machines that they run on, and the replicas of each machine."""

from __future__ import annotations

import itertools
from collections.abc import Container, Mapping, Sequence

import msgspec


class Rank(msgspec.Struct, frozen=True):
    """A replica's place, from 0.

    Attributes:
        rank: among all replicas of its deployment.
        node: of its machine, among those that run any.
        local: among those on its machine.
    """

    rank: int
    node: int = 0
    local: int = 0


def free(taken: Container[int], count: int) -> list[int]:
    """The lowest `count` ranks that nobody has."""
    return list(itertools.islice((rank for rank in itertools.count() if rank not in taken), count))


def closed(ranks: Mapping[str, int]) -> dict[str, int]:
    """The new ranks of those replicas that need one, so that all ranks together are 0 to n - 1, each once.

    As few as can be change: a rank may stand for a part of the data that a replica has loaded.

    Args:
        ranks: by replica, as they are; with gaps where replicas have gone, perhaps one twice.
    """
    free = set(range(len(ranks)))
    moving = []
    for replica_id, rank in sorted(ranks.items(), key=lambda item: (item[1], item[0])):
        if rank in free:
            free.remove(rank)
        else:
            moving.append(replica_id)
    return dict(zip(moving, sorted(free), strict=True))


def joining(rank: int, node: str, others: Sequence[tuple[str, Rank]]) -> Rank:
    """The place of a replica that has come to a machine.

    Args:
        rank: among all.
        node: the machine.
        others: the replicas that have places already, with their machines.
    """
    here = [other for place, other in others if place == node]
    of_nodes = [other.node for _, other in others]
    of_node = here[0].node if here else free(of_nodes, 1)[0]
    taken = [other.local for other in here]
    # Where there is one machine, both ranks are the same.
    local = rank if len(here) == len(others) and rank not in taken else free(taken, 1)[0]
    return Rank(rank, of_node, local)


def closed_places(places: Mapping[str, tuple[str, Rank]]) -> dict[str, Rank]:
    """The new places of those replicas that need one, so that all three ranks are without gaps.

    Args:
        places: machine and place by replica, as they are.
    """
    ranks = closed({replica: place.rank for replica, (_, place) in places.items()})
    by_node: dict[str, dict[str, Rank]] = {}
    for replica, (node, place) in places.items():
        by_node.setdefault(node, {})[replica] = place
    of_nodes = {node: min(place.node for place in here.values()) for node, here in by_node.items()}
    of_nodes |= closed(of_nodes)
    locals: dict[str, int] = {}
    for here in by_node.values():
        own = {replica: place.local for replica, place in here.items()}
        locals |= own | closed(own)
    new = {
        replica: Rank(ranks.get(replica, place.rank), of_nodes[node], locals[replica])
        for replica, (node, place) in places.items()
    }
    return {replica: place for replica, place in new.items() if place != places[replica][1]}
