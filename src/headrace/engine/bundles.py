"""The bundles of resources that a request stands for. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from headrace.engine.amounts import ACCELERATOR
from headrace.engine.resources import ResourceRequest

TYPE_SHARE = 0.001
"""How much of `accelerator_type:<type>` who asks for a type asks for: it only says which machines will do. Also how
much of a CPU a bundle has that needs nothing."""


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """Resources that must be on one machine together.

    Attributes:
        amounts: by resource: "CPU", "GPU", "memory" in bytes, and custom ones.
        selector: labels that the machine must have, in Ray's notation.
        name: what people are told it is, such as "bundle 1 of 2"; "it" where there is one.
    """

    amounts: dict[str, float]
    selector: dict[str, str] = {}
    name: str = "it"


def bundles_of(request: ResourceRequest, selector: Mapping[str, str] | None = None) -> list[Bundle]:
    """The bundles that a request stands for, those of its whole gang where it is one of a gang: first all of the first
    member, then all of the second, and so on.

    A request without bundles is one bundle, of what its process needs. One with bundles has its process in the first of
    them, which therefore has the memory and the labels that the process asks for; its kind of accelerator is that
    of all bundles with GPUs.

    Args:
        selector: labels that the process's machine must have; None for the request's own.
    """
    own = dict(request.label_selector if selector is None else selector)
    if request.bundles:
        selectors = [dict(labels) for labels in _for_each(request.bundle_label_selectors, len(request.bundles))]
        one = [
            (_with_the_process(bundle, request, first=index == 0), {**(own if index == 0 else {}), **selectors[index]})
            for index, bundle in enumerate(request.bundles)
        ]
    else:
        # A placement group has to hold something.
        one = [(_amounts(request) or ({"CPU": TYPE_SHARE} if request.gang is not None else {}), own)]
    members = request.gang.size if request.gang is not None else 1
    return [
        Bundle(amounts=amounts, selector=labels, name=_name(member, members, index, len(one)))
        for member in range(members)
        for index, (amounts, labels) in enumerate(one)
    ]


def _with_the_process(bundle: Mapping[str, float], request: ResourceRequest, first: bool) -> dict[str, float]:
    amounts = dict(bundle)
    if request.accelerator_type is not None and (first or amounts.get("GPU")):
        amounts.setdefault(ACCELERATOR + request.accelerator_type, TYPE_SHARE)
    if first and request.memory:
        amounts["memory"] = max(amounts.get("memory", 0.0), float(request.memory))
    return amounts


def together(bundles: Sequence[Bundle]) -> dict[str, float]:
    """The sum of bundles."""
    whole: dict[str, float] = {}
    for bundle in bundles:
        for resource, amount in bundle.amounts.items():
            whole[resource] = whole.get(resource, 0.0) + amount
    return whole


def _name(member: int, members: int, index: int, bundles: int) -> str:
    bundle = f"bundle {index + 1} of {bundles}" if bundles > 1 else ""
    if members == 1:
        return bundle or "it"
    replica = f"replica {member + 1} of {members} of the gang"
    return f"{bundle} of {replica}" if bundle else replica


def _for_each(selectors: Sequence[Mapping[str, str]], bundles: int) -> list[Mapping[str, str]]:
    if len(selectors) == 1:
        return [selectors[0]] * bundles
    return list(selectors) or [{}] * bundles


def _amounts(request: ResourceRequest) -> dict[str, float]:
    amounts = {"GPU": request.num_gpus, "CPU": request.num_cpus, "memory": float(request.memory or 0)}
    if request.accelerator_type is not None:
        amounts[ACCELERATOR + request.accelerator_type] = TYPE_SHARE
    return {resource: amount for resource, amount in (amounts | request.resources).items() if amount}
