"""Gangs: replicas that start and end together, as one unit of what `reconcile` plans. Pure.

A gang is whole when every replica of it runs; only then do its replicas take requests. When one of them ends, or is
missing when a controller begins, the gang is broken: the others are ended, and another gang comes in its place.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

import msgspec

from headrace.config.spec import GangPlace
from headrace.controller.reconcile import Observed
from headrace.controller.replica_machine import Phase

SIBLING_DRAIN_S = 5.0
"""How long the replicas of a broken gang have for the requests that they work on. What they do together no longer
works, so that requests may never end; those that need no other replica usually do."""


class Seen(msgspec.Struct, frozen=True):
    """
    Attributes:
        units: gangs, and replicas that are in none.
        members: by unit, the replicas that it stands for.
        broken: replicas that have to go because another of their gang has gone, and why.
    """

    units: list[Observed]
    members: dict[str, list[str]]
    broken: dict[str, str]


def new_gang(replica_ids: Sequence[str]) -> list[GangPlace]:
    """The places of new replicas in a new gang."""
    gang_id = secrets.token_hex(6)
    return [
        GangPlace(gang_id=gang_id, rank=rank, world_size=len(replica_ids), member_replica_ids=list(replica_ids))
        for rank in range(len(replica_ids))
    ]


def see(replicas: Sequence[Observed], places: Mapping[str, GangPlace]) -> Seen:
    """Replicas as units.

    Args:
        replicas: all that have not gone.
        places: of those that are in gangs.
    """
    phases = {replica.replica_id: replica.phase for replica in replicas}
    by_gang: dict[str, list[Observed]] = {}
    units: list[Observed] = []
    members: dict[str, list[str]] = {}
    broken: dict[str, str] = {}
    for replica in replicas:
        place = places.get(replica.replica_id)
        if place is None:
            units.append(replica)
            members[replica.replica_id] = [replica.replica_id]
        else:
            by_gang.setdefault(place.gang_id, []).append(replica)
    for gang_id, gang in by_gang.items():
        place = places[gang[0].replica_id]
        lost = _lost(place, phases)
        if lost is None:
            units.append(_unit(gang_id, gang))
            members[gang_id] = [replica.replica_id for replica in gang]
        else:
            reason = f"replica {lost} of its gang {gang_id} has ended"
            broken |= {replica.replica_id: reason for replica in gang if _active(replica.phase)}
    return Seen(units, members, broken)


def is_whole(place: GangPlace, phases: Mapping[str, Phase]) -> bool:
    """Whether every replica of a gang runs. `phases`: of all replicas that have not gone."""
    return all(phases.get(member) is Phase.RUNNING for member in place.member_replica_ids)


def is_first_loss(place: GangPlace, failed: str, phases: Mapping[str, Phase]) -> bool:
    """Whether a replica that has failed is the first of its gang: what fails after it does so because of it."""
    return all(
        member == failed or phases.get(member) not in (None, Phase.FAILED) for member in place.member_replica_ids
    )


def _unit(gang_id: str, gang: Sequence[Observed]) -> Observed:
    configs = {replica.config for replica in gang}
    return Observed(
        replica_id=gang_id,
        version=gang[0].version,
        # Where they differ, some have yet to be told of the wanted one.
        config=configs.pop() if len(configs) == 1 else "",
        phase=Phase.RUNNING if all(r.phase is Phase.RUNNING for r in gang) else Phase.INITIALIZING,
        started_at=min(replica.started_at for replica in gang),
        reconfiguring=any(replica.reconfiguring for replica in gang),
        size=len(gang),
        leaving=any(replica.leaving for replica in gang),
    )


def _lost(place: GangPlace, phases: Mapping[str, Phase]) -> str | None:
    return next((member for member in place.member_replica_ids if not _active(phases.get(member))), None)


def _active(phase: Phase | None) -> bool:
    return phase in (Phase.STARTING, Phase.INITIALIZING, Phase.RUNNING)
