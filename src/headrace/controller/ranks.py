"""Ranks without gaps, as a pure function: replicas 0 to n - 1, whichever of them have been stopped meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Container, Mapping


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
