"""Whether bundles have a place, against every way of placing them; and what people are told where they have none."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.amounts import parts
from headrace.engine.bundles import Bundle, bundles_of
from headrace.engine.labels import missing_label
from headrace.engine.placement import Room, place, why_not
from headrace.engine.resources import Gang, ResourceRequest

amounts = st.integers(0, 4).map(float) | st.sampled_from([0.1, 0.5])
selectors = st.sampled_from([{}, {"zone": "a"}, {"zone": "!a"}])
bundles = st.builds(
    lambda cpu, gpu, selector: Bundle(amounts={"CPU": cpu, "GPU": gpu}, selector=selector), amounts, amounts, selectors
)


@st.composite
def rooms(draw: st.DrawFn) -> Room:
    total = {"CPU": draw(amounts), "GPU": draw(amounts)}
    available = {name: min(draw(amounts), amount) for name, amount in total.items()}
    return Room(total=total, available=available, labels=draw(st.sampled_from([{}, {"zone": "a"}, {"zone": "b"}])))


def holds(wanted: Sequence[Bundle], where: Sequence[int], strategy: str, there: Sequence[Room], left: str) -> bool:
    if strategy == "STRICT_PACK" and len(set(where)) > 1:
        return False
    if strategy == "STRICT_SPREAD" and len(set(where)) < len(wanted):
        return False
    for index, room in enumerate(there):
        has = room.total if left == "total" else room.available
        here = [bundle for bundle, place in zip(wanted, where, strict=True) if place == index]
        if any(missing_label(room.labels, bundle.selector) for bundle in here):
            return False
        for resource in ("CPU", "GPU"):
            if sum(parts(bundle.amounts[resource]) for bundle in here) > parts(has[resource]):
                return False
    return True


@settings(max_examples=1000)
@given(
    st.lists(bundles, min_size=1, max_size=4),
    st.lists(rooms(), max_size=4),
    st.sampled_from(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]),
    st.sampled_from(["total", "available"]),
)
def test_a_place_is_found_exactly_where_there_is_one(
    wanted: list[Bundle], there: list[Room], strategy: str, left: str
) -> None:
    ways = itertools.product(range(len(there)), repeat=len(wanted))
    possible = any(holds(wanted, way, strategy, there, left) for way in ways)
    found = place(wanted, strategy, there, left)
    assert (found is not None) is possible
    if found is not None:
        assert holds(wanted, found, strategy, there, left)


requests = st.builds(
    ResourceRequest,
    num_cpus=amounts,
    num_gpus=amounts,
    label_selector=selectors,
    fallback_strategy=st.lists(st.builds(lambda s: {"label_selector": s}, selectors), max_size=1),
    bundles=st.lists(
        st.builds(lambda c, g: {"CPU": c, "GPU": g}, amounts, amounts).filter(lambda b: any(b.values())), max_size=3
    ),
    strategy=st.sampled_from([None, "PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]),
    gang=st.none() | st.builds(Gang, id=st.just("g"), size=st.integers(1, 2), index=st.just(0)),
    max_per_node=st.none() | st.integers(1, 2),
    group=st.just("app#Model"),
)


@settings(max_examples=1000)
@given(requests, st.lists(rooms(), max_size=3))
def test_never_is_said_exactly_where_not_even_empty_machines_would_do(
    request: ResourceRequest, there: list[Room]
) -> None:
    refusal = why_not(request, there)
    empty = [Room(total=room.total, available=room.total, labels=room.labels) for room in there]
    refused_for_ever = why_not(request, empty)
    if refusal is None:
        assert refused_for_ever is None
    else:
        assert (refusal.kind == "never") is (refused_for_ever is not None)
        assert refusal.reason and not refusal.reason.endswith(".")


@settings(max_examples=300)
@given(requests, st.lists(rooms(), max_size=3), rooms())
def test_another_machine_never_takes_a_place_away(request: ResourceRequest, there: list[Room], joins: Room) -> None:
    if why_not(request, there) is None:
        assert why_not(request, [*there, joins]) is None


def test_many_bundles_are_placed_without_trying_every_way() -> None:
    nodes = [Room(total={"GPU": 8.0}, available={"GPU": float(i % 8)}) for i in range(200)]
    wanted = [Bundle(amounts={"GPU": 1.0 + i % 3}) for i in range(300)]
    assert place(wanted, "PACK", nodes) is not None
    assert place([Bundle(amounts={"GPU": 7.0})] * 26, "STRICT_SPREAD", nodes) is None


def node(free: dict[str, float] | None = None, labels: dict[str, str] | None = None, **total: float) -> Room:
    return Room(total=total, available={**total, **(free or {})}, labels=labels or {})


def request(*bundles: dict[str, float], **more: Any) -> ResourceRequest:
    return ResourceRequest(bundles=list(bundles), **more)


FOUR = {"GPU": 4.0}
ONE = {"GPU": 1.0}


@pytest.mark.parametrize(
    ("wanted", "there", "kind", "reason"),
    [
        (request(FOUR, ONE), [], "never", "bundle 1 of 2 needs 4 GPUs; there is no node"),
        (
            request(ONE, FOUR),
            [node(GPU=4, free={"GPU": 2}), node(GPU=2)],
            "not_now",
            "bundle 2 of 2 needs 4 GPUs; the largest node has 2 free of 4",
        ),
        (request(ONE, FOUR), [node(GPU=2)], "never", "bundle 2 of 2 needs 4 GPUs; the largest node has 2"),
        (request(ONE), [node(CPU=8)], "never", "it needs 1 GPU; no node has any"),
        (
            request(ONE),
            [node(CPU=8), node(GPU=2, free={"GPU": 0})],
            "not_now",
            "it needs 1 GPU; the largest node has 0 free of 2",
        ),
        (
            ResourceRequest(num_cpus=2, num_gpus=1),
            [node(GPU=1, CPU=1), node(CPU=4)],
            "never",
            "it needs 1 GPU and 2 CPUs on one node; no node has all of that: the nearest has 1 GPU and 1 CPU",
        ),
        (
            ResourceRequest(resources={"licence": 1}),
            [node(license=1)],
            "never",
            "it needs 1 of the resource 'licence'; no node has any (did you mean 'license'?)",
        ),
        (
            ResourceRequest(memory=int(8e9)),
            [node(memory=4e9)],
            "never",
            "it needs 8 GB of memory; the largest node has 4 GB",
        ),
        (
            ResourceRequest(accelerator_type="H100"),
            [Room(total={"accelerator_type:A100": 1.0}, available={"accelerator_type:A100": 1.0})],
            "never",
            "it needs an accelerator H100; the nodes have A100",
        ),
        (
            ResourceRequest(num_cpus=1, label_selector={"zone": "a"}),
            [node(CPU=4, labels={"zone": "b"})],
            "never",
            "it needs a node with the label zone=a; there is zone=b",
        ),
        (
            ResourceRequest(num_cpus=1, label_selector={"zon": "a"}),
            [node(CPU=4, labels={"zone": "a"})],
            "never",
            "it needs a node with the label zon=a; no node has a label 'zon' (did you mean 'zone'?)",
        ),
        (
            ResourceRequest(num_gpus=2, label_selector={"zone": "a"}),
            [node(GPU=1, labels={"zone": "a"}), node(GPU=8)],
            "never",
            "it needs 2 GPUs; the largest node with its labels has 1",
        ),
        (
            ResourceRequest(
                num_gpus=2,
                label_selector={"zone": "a"},
                fallback_strategy=[{"label_selector": {"zone": "b"}}],
            ),
            [node(GPU=1, labels={"zone": "a"})],
            "never",
            "it needs 2 GPUs; the largest node has 1 (nor is there a place by the fallback)",
        ),
        (
            request(ONE, ONE, strategy="STRICT_PACK"),
            [node(GPU=1), node(GPU=1)],
            "never",
            "the 2 bundles together (STRICT_PACK) need 2 GPUs; the largest node has 1",
        ),
        (
            request(ONE, ONE, ONE, strategy="STRICT_SPREAD"),
            [node(GPU=4), node(GPU=4), node(CPU=1)],
            "never",
            "each of the 3 bundles needs a node of its own (STRICT_SPREAD); 2 of 3 nodes have room for one",
        ),
        (
            request(ONE, ONE, ONE),
            [node(GPU=2, free={"GPU": 1}), node(GPU=1)],
            "not_now",
            "the 3 bundles together need 3 GPUs; 2 nodes together have 2 free of 3",
        ),
        (
            request({"GPU": 2.0}, {"GPU": 2.0}),
            [node(GPU=3), node(GPU=1)],
            "never",
            "the 2 bundles together need 4 GPUs; the nodes have that, but not in pieces that fit (GPU by node: 3, 1)",
        ),
        (
            ResourceRequest(num_gpus=1, gang=Gang(id="g", size=3, index=0)),
            [node(GPU=2)],
            "never",
            "the 3 replicas of the gang together need 3 GPUs; the node has 2",
        ),
        (
            request(ONE, FOUR, gang=Gang(id="g", size=2, index=1)),
            [node(GPU=2)],
            "never",
            "bundle 2 of 2 of replica 1 of 2 of the gang needs 4 GPUs; the largest node has 2",
        ),
    ],
)
def test_people_are_told_what_is_lacking(wanted: ResourceRequest, there: list[Room], kind: str, reason: str) -> None:
    refusal = why_not(wanted, there)
    assert refusal is not None
    assert (refusal.kind, refusal.reason) == (kind, reason)


def test_a_limit_of_replicas_per_node_is_told_of_and_another_node_helps() -> None:
    wanted = ResourceRequest(num_cpus=1, max_per_node=1, group="app#Model")
    full = Room(total={"CPU": 4.0}, available={"CPU": 3.0}, counts={"app#Model": 1})
    refusal = why_not(wanted, [full])
    assert refusal is not None and refusal.kind == "not_now"
    assert refusal.reason == "every node that has room runs 1 replica of it already (max_replicas_per_node)"
    assert why_not(wanted, [full, node(CPU=1)]) is None


def test_a_gang_stands_for_the_bundles_of_all_its_members_in_order() -> None:
    wanted = request(ONE, FOUR, gang=Gang(id="g", size=2, index=1), bundle_label_selectors=[{"zone": "a"}])
    assert [bundle.amounts for bundle in bundles_of(wanted)] == [ONE, FOUR, ONE, FOUR]
    assert all(bundle.selector == {"zone": "a"} for bundle in bundles_of(wanted))


def test_a_gang_that_needs_nothing_has_bundles_all_the_same() -> None:
    assert [b.amounts for b in bundles_of(request(gang=Gang(id="g", size=2, index=0)))] == [{"CPU": 0.001}] * 2


def test_a_process_brings_what_it_asks_for_into_its_bundles() -> None:
    wanted = request({"CPU": 1.0}, ONE, accelerator_type="H100", memory=100, label_selector={"zone": "a"})
    first, second = bundles_of(wanted)
    assert first.amounts == {"CPU": 1.0, "accelerator_type:H100": 0.001, "memory": 100.0}
    assert second.amounts == {"GPU": 1.0, "accelerator_type:H100": 0.001}
    assert (first.selector, second.selector) == ({"zone": "a"}, {})
