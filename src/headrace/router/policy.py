"""Which replica gets a request: policies, from the default to those that users write.

A policy is asked for one request at a time and sees the replicas that are connected, with their load as this process
knows it. It returns one with `free` set, or None to let the request wait; it is asked again whenever a place
becomes free. It runs on the event loop of whoever routes: it must not block, and microseconds count.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from random import random
from typing import Any, Protocol

from headrace.exceptions import ConfigError


class Candidate(Protocol):
    """A replica, as a policy sees it."""

    @property
    def replica_id(self) -> str: ...
    @property
    def node(self) -> str: ...
    @property
    def zone(self) -> str: ...
    @property
    def distance(self) -> int:
        """0 on the machine of whoever routes, 1 in its zone, 2 elsewhere."""

    @property
    def load(self) -> int: ...
    @property
    def limit(self) -> int:
        """Its `max_ongoing_requests`."""

    @property
    def free(self) -> bool: ...
    @property
    def model_ids(self) -> set[str]: ...


class RoutableRequest(Protocol):
    """A request, as a policy sees it."""

    @property
    def method(self) -> str: ...
    @property
    def multiplexed_model_id(self) -> str: ...
    @property
    def session_id(self) -> str: ...
    @property
    def routing_hint(self) -> Any: ...


class RoutingPolicy:
    """Base class of policies. Named in a deployment's `request_router_config` by its import path."""

    def choose(self, request: RoutableRequest, replicas: Sequence[Any]) -> Any | None:
        """Return one of `replicas` (each a `Candidate`) that is `free`, or None to wait."""
        raise TypeError(f"{type(self).__name__} does not implement choose()")

    def replicas_changed(self, replica_ids: Sequence[str]) -> None:
        """The deployment has these replicas from now on, connected or not: a policy that remembers others can forget
        them. Called when the policy is made, and with every change."""


class PowerOfTwoChoices(RoutingPolicy):
    """The less loaded of two replicas drawn at random, or of all where both are full.

    M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001.
    """

    def choose(self, request: RoutableRequest, replicas: Sequence[Any]) -> Any | None:
        count = len(replicas)
        if count == 1:
            only = replicas[0]
            return only if only.free else None
        if not count:
            return None
        i = int(random() * count)
        j = int(random() * (count - 1))
        if j >= i:
            j += 1
        first, second = replicas[i], replicas[j]
        if first.free:
            return second if second.free and second.load < first.load else first
        if second.free:
            return second
        return least_loaded(replicas)


class NearestFirst(RoutingPolicy):
    """The nearest replicas, by power of two choices, for as long as they have room and are not much busier than others.

    A farther replica is drawn too, and gets the request where the nearest carries more by over a quarter of its limit
    (`max_ongoing_requests`), or by over one request: without that, a machine that gets most of the requests would work
    through all of them while others idle.

    Args:
        groups: lists that `choose` will be asked with. One that is asked with any other is taken as it is.
    """

    def __init__(self, groups: Sequence[list[Any]]) -> None:
        self._even = PowerOfTwoChoices()
        self._tiers = {id(group): by_distance(group) for group in groups}
        self._groups = groups  # while they live, no other list has their ids

    def choose(self, request: RoutableRequest, replicas: Sequence[Any]) -> Any | None:
        draw = self._even.choose
        best = None
        for tier in self._tiers.get(id(replicas), (replicas,)):
            drawn = draw(request, tier)
            if best is None or (drawn is not None and best.load > drawn.load + max(1, best.limit // 4)):
                best = drawn
        return best


def by_distance(replicas: Sequence[Any]) -> list[list[Any]]:
    """Those on this machine, those in this zone, and the others, in lists that are not empty."""
    distances = sorted({replica.distance for replica in replicas})
    return [[replica for replica in replicas if replica.distance == distance] for distance in distances]


class ModelAffinity(RoutingPolicy):
    """For multiplexed models: a free replica that holds the model, else the one that holds fewest models."""

    def choose(self, request: RoutableRequest, replicas: Sequence[Any]) -> Any | None:
        model_id = request.multiplexed_model_id
        holder = least_loaded([replica for replica in replicas if model_id in replica.model_ids])
        if holder is not None:
            return holder
        free = [replica for replica in replicas if replica.free]
        return min(free, key=lambda replica: (len(replica.model_ids), replica.load)) if free else None


class SessionAffinity(RoutingPolicy):
    """Requests of one session go to one replica while it has room; few sessions move when the replica set changes.

    Rendezvous hashing: D. Thaler, C. Ravishankar, "Using name-based mappings to increase hit rates", 1998.
    """

    def choose(self, request: RoutableRequest, replicas: Sequence[Any]) -> Any | None:
        free = [replica for replica in replicas if replica.free]
        if not free:
            return None
        session = request.session_id.encode()
        return max(free, key=lambda replica: _weight(session, replica.replica_id.encode()))


def _weight(session: bytes, replica_id: bytes) -> bytes:
    return hashlib.blake2b(session + b"\0" + replica_id, digest_size=8).digest()


def least_loaded(replicas: Sequence[Any]) -> Any | None:
    """The free replica with the fewest requests, None where none is free."""
    best = None
    for replica in replicas:
        if replica.free and (best is None or replica.load < best.load):
            best = replica
    return best


def load_policy(path: str, kwargs: dict[str, Any]) -> RoutingPolicy:
    """Import and make a user's policy.

    Raises:
        ConfigError: the path leads nowhere, or to something that is no policy.
    """
    module_name, separator, name = path.replace(":", ".").rpartition(".")
    try:
        policy: Any = getattr(importlib.import_module(module_name), name)(**kwargs) if separator else None
    except Exception as error:
        raise ConfigError(f"request_router_config: cannot make the routing policy {path!r}: {error}") from error
    if not callable(getattr(policy, "choose", None)):
        raise ConfigError(
            f"request_router_config: {path!r} is no routing policy; it needs a method choose(request, replicas), "
            f"see headrace.router.policy.RoutingPolicy"
        )
    return policy  # type: ignore[no-any-return]
