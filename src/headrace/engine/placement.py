"""Whether bundles of resources find a place on machines, and if not, why: for people. Pure.

`why_not` tells what a request lacks. It tells two cases apart: nothing that ends would make room ("never", on these
machines: one that fits may join), and there is no room at this moment ("not_now").
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from headrace.engine.amounts import ACCELERATOR, all_in_words, in_words, number_shown, parts
from headrace.engine.bundles import Bundle, bundles_of, together
from headrace.engine.labels import missing_label
from headrace.engine.resources import Refusal, ResourceRequest

MOST_STEPS = 20_000
"""How many partial placements are looked at. Where that is not enough to be sure, a place is believed to exist."""

MOST_BUNDLES = 500
"""The same, for more bundles than these."""

_MOST_TOLD = 8
"""Machines that a sentence names one by one."""


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine has.

    Attributes:
        total: amounts by resource.
        available: what is left of them; a resource that is not named is used up.
        labels: that selectors go by.
        counts: how many processes of a group it runs, for `ResourceRequest.max_per_node`.
    """

    total: dict[str, float]
    available: dict[str, float]
    labels: dict[str, str] = {}
    counts: dict[str, int] = {}


def why_not(request: ResourceRequest, rooms: Sequence[Room]) -> Refusal | None:
    """What keeps a request from being placed, the whole gang together where it is one of a gang.

    Args:
        request: what one process needs.
        rooms: the machines.

    Returns:
        None if there is room for it; else the reason, a sentence without its full stop.
    """
    strategy = (request.gang.strategy if request.gang is not None else request.strategy) or "PACK"
    refusals: list[Refusal] = []
    for selector in _selectors(request):
        refusal = _refusal(bundles_of(request, selector), strategy, rooms, request)
        if refusal is None:
            return None
        refusals.append(refusal)
    told = next((refusal for refusal in refusals if refusal.kind == "not_now"), refusals[0])
    if len(refusals) > 1:
        other = "the fallback" if len(refusals) == 2 else f"any of the {len(refusals) - 1} fallbacks"
        return Refusal(kind=told.kind, reason=f"{told.reason} (nor is there a place by {other})")
    return told


def place(bundles: Sequence[Bundle], strategy: str, rooms: Sequence[Room], left: str = "available") -> list[int] | None:
    """A place for every bundle: the index of its machine; None if there is none.

    `PACK` and `SPREAD` say what is better, not what is possible: any places will do for them.

    Args:
        strategy: "PACK", "SPREAD", "STRICT_PACK" or "STRICT_SPREAD".
        left: "available" for what is left of the machines, "total" for machines that are empty.
    """
    if strategy == "STRICT_PACK":
        whole = together(bundles)
        for index, room in enumerate(rooms):
            if all(_has_labels(room, bundle) for bundle in bundles) and _holds(_of(room, left), whole):
                return [index] * len(bundles)
        return None
    if strategy == "STRICT_SPREAD":
        return _each_its_own(bundles, rooms, left)
    return _Search(bundles, rooms, left).places()


def _selectors(request: ResourceRequest) -> Iterator[Mapping[str, str]]:
    yield request.label_selector
    if request.bundles or request.gang is not None:
        return  # a placement group has none
    for fallback in request.fallback_strategy:
        yield fallback.get("label_selector") or {}


def _of(room: Room, left: str) -> Mapping[str, float]:
    return room.total if left == "total" else room.available


def _has_labels(room: Room, bundle: Bundle) -> bool:
    return missing_label(room.labels, bundle.selector) is None


def _holds(amounts: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    return all(parts(amount) <= parts(amounts.get(resource, 0.0)) for resource, amount in wanted.items())


def _each_its_own(bundles: Sequence[Bundle], rooms: Sequence[Room], left: str) -> list[int] | None:
    """A machine for every bundle, none for two: a matching, by augmenting paths (Kuhn's algorithm)."""
    fitting = [_fitting(bundle, rooms, left) for bundle in bundles]
    holder: dict[int, int] = {}  # by machine: its bundle

    def settle(bundle: int, tried: set[int]) -> bool:
        for room in fitting[bundle]:
            if room not in tried:
                tried.add(room)
                if room not in holder or settle(holder[room], tried):
                    holder[room] = bundle
                    return True
        return False

    if not all(settle(bundle, set()) for bundle in range(len(bundles))):
        return None
    place_of = {bundle: room for room, bundle in holder.items()}
    return [place_of[bundle] for bundle in range(len(bundles))]


def _fitting(bundle: Bundle, rooms: Sequence[Room], left: str) -> list[int]:
    return [i for i, room in enumerate(rooms) if _has_labels(room, bundle) and _holds(_of(room, left), bundle.amounts)]


class _Search:
    """Depth first, the bundles with the fewest places first; equal bundles take machines in one order only."""

    def __init__(self, bundles: Sequence[Bundle], rooms: Sequence[Room], left: str) -> None:
        self._wanted = [{r: parts(a) for r, a in bundle.amounts.items()} for bundle in bundles]
        self._left = [{r: parts(a) for r, a in _of(room, left).items()} for room in rooms]
        self._fitting = [_fitting(bundle, rooms, left) for bundle in bundles]
        self._order = sorted(range(len(bundles)), key=lambda n: (len(self._fitting[n]), self._key(n)))
        self._found = [-1] * len(bundles)
        self._steps = 0

    def places(self) -> list[int] | None:
        if not all(self._fitting) or not self._enough_in_all():
            return None
        if len(self._order) > MOST_BUNDLES:
            return [fitting[0] for fitting in self._fitting]  # not known: believed
        return list(self._found) if self._place_from(0) else None

    def _key(self, number: int) -> tuple[tuple[str, int], ...]:
        return tuple(sorted((resource, -amount) for resource, amount in self._wanted[number].items()))

    def _enough_in_all(self) -> bool:
        there: dict[str, int] = {}
        for amounts in self._left:
            for resource, amount in amounts.items():
                there[resource] = there.get(resource, 0) + amount
        wanted: dict[str, int] = {}
        for amounts in self._wanted:
            for resource, amount in amounts.items():
                wanted[resource] = wanted.get(resource, 0) + amount
        return all(amount <= there.get(resource, 0) for resource, amount in wanted.items())

    def _fits(self, number: int, room: int) -> bool:
        left = self._left[room]
        return all(amount <= left.get(resource, 0) for resource, amount in self._wanted[number].items())

    def _place_from(self, position: int) -> bool:
        if position == len(self._order):
            return True
        number = self._order[position]
        first = self._first_room(position)
        for room in self._fitting[number]:
            if room < first or not self._fits(number, room):
                continue
            self._steps += 1
            if self._steps > MOST_STEPS:
                return True  # not known: believed
            self._take(number, room, +1)
            if self._place_from(position + 1):
                return True
            self._take(number, room, -1)
        return False

    def _first_room(self, position: int) -> int:
        if position == 0:
            return 0
        number, before = self._order[position], self._order[position - 1]
        alike = self._wanted[number] == self._wanted[before] and self._fitting[number] == self._fitting[before]
        return self._found[before] if alike else 0

    def _take(self, number: int, room: int, sign: int) -> None:
        for resource, amount in self._wanted[number].items():
            if amount:
                self._left[room][resource] -= sign * amount
        self._found[number] = room


def _refusal(
    bundles: Sequence[Bundle], strategy: str, rooms: Sequence[Room], request: ResourceRequest
) -> Refusal | None:
    if not rooms:
        return Refusal(kind="never", reason=f"{_needs(bundles[0])}; there is no node")
    if place(bundles, strategy, rooms, "total") is None:
        return Refusal(kind="never", reason=_reason(bundles, strategy, rooms, "total", _all_of(bundles, request)))
    limit = request.max_per_node
    open_rooms = [r for r in rooms if limit is None or r.counts.get(request.group, 0) < limit]
    if place(bundles, strategy, open_rooms, "available") is not None:
        return None
    if limit is not None and place(bundles, strategy, rooms, "available") is not None:
        replicas = "1 replica" if limit == 1 else f"{limit} replicas"
        return Refusal(
            kind="not_now", reason=f"every node that has room runs {replicas} of it already (max_replicas_per_node)"
        )
    return Refusal(kind="not_now", reason=_reason(bundles, strategy, rooms, "available", _all_of(bundles, request)))


def _needs(bundle: Bundle) -> str:
    return f"{bundle.name} needs {all_in_words(bundle.amounts)}"


def _all_of(bundles: Sequence[Bundle], request: ResourceRequest) -> str:
    if request.gang is not None and not request.bundles:
        return f"the {request.gang.size} replicas of the gang"
    return f"the {len(bundles)} bundles" + (" of the gang" if request.gang is not None else "")


def _reason(bundles: Sequence[Bundle], strategy: str, rooms: Sequence[Room], left: str, all_of: str) -> str:
    """Why `place` found none: first what no machine has for one bundle, then what they lack for all together."""
    for bundle in bundles:
        labelled = [room for room in rooms if _has_labels(room, bundle)]
        if not labelled:
            return _no_label(bundle, rooms)
        if not any(_holds(_of(room, left), bundle.amounts) for room in labelled):
            return _too_large(bundle, labelled, left, among=len(labelled) < len(rooms))
    if strategy == "STRICT_PACK":
        return _no_machine_for_all(bundles, rooms, left, f"{all_of} together (STRICT_PACK)")
    if strategy == "STRICT_SPREAD":
        return _too_few_machines(bundles, rooms, left)
    return _not_at_once(bundles, rooms, left, f"{all_of} together")


def _no_label(bundle: Bundle, rooms: Sequence[Room]) -> str:
    missing = {missing for room in rooms if (missing := missing_label(room.labels, bundle.selector)) is not None}
    if len(missing) > 1:
        wanted = ", ".join(f"{name}={value}" for name, value in bundle.selector.items())
        return f"{bundle.name} needs a node with the labels {wanted}; no node has all of them"
    name = missing.copy().pop().partition("=")[0]
    values = sorted({room.labels[name] for room in rooms if name in room.labels})
    if values:
        there = f"there is {' and '.join(f'{name}={value}' for value in values)}"
    else:
        near = difflib.get_close_matches(name, {label for room in rooms for label in room.labels}, n=1)
        there = f"no node has a label '{name}'" + (f" (did you mean '{near[0]}'?)" if near else "")
    return f"{bundle.name} needs a node with the label {missing.pop()}; {there}"


def _too_large(bundle: Bundle, rooms: Sequence[Room], left: str, among: bool) -> str:
    """No machine holds this bundle. `among`: these are only those with the labels that it asks for."""
    node = "node with its labels" if among else "node"
    for resource, amount in bundle.amounts.items():
        best = _largest(rooms, resource, left)
        if parts(_of(best, left).get(resource, 0.0)) < parts(amount):
            needs = f"{bundle.name} needs {in_words(resource, amount)}"
            if resource.startswith(ACCELERATOR):
                return f"{needs}; {_accelerators(rooms)}"
            if not any(room.total.get(resource) for room in rooms):
                return f"{needs}; no {node} has any{_nearest(resource, rooms)}"
            return f"{needs}; the largest {node} has {_amount_of(best, resource, left)}"
    fewest = min(rooms, key=lambda room: len(_lacking(bundle.amounts, _of(room, left))))
    has = all_in_words({resource: _of(fewest, left).get(resource, 0.0) for resource in bundle.amounts})
    free = "" if left == "total" else " free"
    return f"{_needs(bundle)} on one node; no {node} has all of that{free}: the nearest has {has}{free}"


def _largest(rooms: Sequence[Room], resource: str, left: str) -> Room:
    return max(rooms, key=lambda room: (_of(room, left).get(resource, 0.0), room.total.get(resource, 0.0)))


def _lacking(wanted: Mapping[str, float], amounts: Mapping[str, float]) -> list[str]:
    return [r for r, amount in wanted.items() if parts(amount) > parts(amounts.get(r, 0.0))]


def _amount_of(room: Room, resource: str, left: str) -> str:
    total = number_shown(resource, room.total.get(resource, 0.0))
    if left == "total":
        return total
    return f"{number_shown(resource, max(0.0, room.available.get(resource, 0.0)))} free of {total}"


def _accelerators(rooms: Sequence[Room]) -> str:
    kinds = sorted({r.removeprefix(ACCELERATOR) for room in rooms for r in room.total if r.startswith(ACCELERATOR)})
    return f"the nodes have {' and '.join(kinds)}" if kinds else "no node has an accelerator that is known"


def _nearest(resource: str, rooms: Sequence[Room]) -> str:
    names = {name for room in rooms for name in room.total}
    near = difflib.get_close_matches(resource, names - {"CPU", "GPU", "memory"}, n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _no_machine_for_all(bundles: Sequence[Bundle], rooms: Sequence[Room], left: str, what: str) -> str:
    whole = Bundle(amounts=together(bundles), name=what)
    labelled = [room for room in rooms if all(_has_labels(room, bundle) for bundle in bundles)]
    if not labelled:
        return f"{whole.name} need one node; no node has the labels of all of them"
    return _too_large(whole, labelled, left, among=len(labelled) < len(rooms)).replace(" needs ", " need ", 1)


def _too_few_machines(bundles: Sequence[Bundle], rooms: Sequence[Room], left: str) -> str:
    fitting = sum(any(_has_labels(r, b) and _holds(_of(r, left), b.amounts) for b in bundles) for r in rooms)
    what = f"each of the {len(bundles)} bundles needs a node of its own (STRICT_SPREAD)"
    if fitting < len(bundles):
        nodes = f"{fitting} of {_nodes(len(rooms))}" if fitting < len(rooms) else _nodes(fitting)
        return f"{what}; {nodes} {'has' if fitting == 1 else 'have'} room for one"
    return f"{what}; {_nodes(fitting)} have room for some of them, but not for all at once"


def _not_at_once(bundles: Sequence[Bundle], rooms: Sequence[Room], left: str, what: str) -> str:
    for resource, amount in together(bundles).items():
        there = sum(max(0.0, _of(room, left).get(resource, 0.0)) for room in rooms)
        if parts(there) < parts(amount):
            has = number_shown(resource, there)
            if left == "available":
                has += f" free of {number_shown(resource, sum(room.total.get(resource, 0.0) for room in rooms))}"
            nodes = f"{len(rooms)} nodes together have" if len(rooms) > 1 else "the node has"
            return f"{what} need {in_words(resource, amount)}; {nodes} {has}"
    largest = max(bundles, key=lambda bundle: (bundle.amounts.get("GPU", 0.0), sum(bundle.amounts.values())))
    resource = "GPU" if largest.amounts.get("GPU") else next(iter(largest.amounts))
    split = [_amount_of(room, resource, left) for room in rooms[:_MOST_TOLD]]
    more = ", …" if len(rooms) > _MOST_TOLD else ""
    return (
        f"{what} need {all_in_words(together(bundles))}; the nodes have that, but not in pieces that fit "
        f"({resource} by node: {', '.join(split)}{more})"
    )


def _nodes(number: int) -> str:
    return "1 node" if number == 1 else f"{number} nodes"
