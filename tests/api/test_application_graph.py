"""The walk over bound deployments, on random graphs and on the awkward places where applications hide."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from headrace.application_graph import walk
from headrace.deployments import Application, deployment
from headrace.exceptions import ApplicationBuildError, ConfigError, SerializationError


class Node:
    def __init__(self, *children: Any, **named: Any) -> None:
        pass


leaf = deployment(name="leaf")(Node)
node = deployment(name="node")(Node)

# Edges of a random graph without circles: node i may only call nodes before it; names repeat.
graphs = st.integers(1, 8).flatmap(
    lambda size: st.tuples(
        st.lists(st.sampled_from(["a", "b", "a_1"]), min_size=size, max_size=size),
        st.tuples(*(st.lists(st.integers(0, i - 1), max_size=4) if i else st.just([]) for i in range(size))),
    )
)


@settings(max_examples=100, deadline=None)
@given(graphs, st.randoms(use_true_random=False))
def test_each_application_appears_once_with_its_edges_and_a_name_of_its_own(graph: Any, random: Any) -> None:
    names, edges = graph
    apps: list[Application[Any]] = []
    for name, children in zip(names, edges, strict=True):
        wrapped = [random.choice([apps[c], [apps[c]], {"k": (apps[c],)}]) for c in children]
        apps.append(deployment(name=name)(Node).bind(*wrapped))
    root = apps[-1]
    reachable, pending = set(), [len(apps) - 1]
    while pending:
        index = pending.pop()
        if index not in reachable:
            reachable.add(index)
            pending.extend(edges[index])

    nodes = walk(root)

    assert {id(found.application) for found in nodes} == {id(apps[index]) for index in reachable}
    assert len(nodes) == len(reachable)
    assert len({found.name for found in nodes}) == len(nodes)
    assert nodes[-1].application is root
    order = {id(found.application): position for position, found in enumerate(nodes)}
    for found in nodes:
        index = next(i for i, app in enumerate(apps) if app is found.application)
        assert {id(child) for child in found.children} == {id(apps[c]) for c in edges[index]}
        assert found.name == names[index] or found.name.startswith(f"{names[index]}_")
        assert all(order[id(child)] < order[id(found.application)] for child in found.children)


def test_names_get_rays_suffixes_in_the_order_in_which_deployments_are_met() -> None:
    first, second, third = leaf.bind(), leaf.bind(), leaf.bind()
    names = {found.application: found.name for found in walk(node.bind(first, [second], third))}
    assert [names[app] for app in (first, second, third)] == ["leaf", "leaf_1", "leaf_2"]


class Config(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    child: Application[Any]


@dataclasses.dataclass
class Record:
    child: Any


class Slotted:
    __slots__ = ("child",)

    def __init__(self, child: Any) -> None:
        self.child = child


def in_closure(child: Any) -> Any:
    def call() -> Any:
        return child

    return call


@pytest.mark.parametrize(
    "wrap",
    [
        lambda child: [child],
        lambda child: (child,),
        lambda child: {"k": {"deeper": [child]}},
        lambda child: {child},
        lambda child: Config(child=child),
        lambda child: Record(child),
        lambda child: Slotted(child),
        in_closure,
    ],
    ids=["list", "tuple", "dict", "set", "pydantic model", "dataclass", "slots", "closure"],
)
def test_applications_are_found_anywhere_in_the_arguments(wrap: Any) -> None:
    child = leaf.bind()
    assert [found.name for found in walk(node.bind(wrap(child)))] == ["leaf", "node"]


def test_shared_application_is_one_deployment() -> None:
    shared = leaf.bind()
    nodes = walk(node.bind(node.bind(shared), node.bind(shared), shared))
    assert [found.name for found in nodes] == ["leaf", "node", "node_1", "node_2"]


def test_circular_bind_names_the_circle() -> None:
    callees: list[Any] = []
    inner = deployment(name="inner")(Node).bind(callees)
    outer = deployment(name="outer")(Node).bind(inner)
    callees.append(outer)
    with pytest.raises(ApplicationBuildError, match="circular bind: outer -> inner -> outer"):
        walk(deployment(name="top")(Node).bind(outer))


def test_application_bound_to_itself_is_a_circle() -> None:
    callees: list[Any] = []
    app = node.bind(callees)
    callees.append(app)
    with pytest.raises(ApplicationBuildError, match="circular bind: node -> node"):
        walk(app)


def test_chain_may_be_longer_than_the_recursion_limit() -> None:
    app = leaf.bind()
    for _ in range(2000):
        app = node.bind(app)
    assert len(walk(app)) == 2001


def test_unbound_deployment_among_the_arguments_is_pointed_out() -> None:
    with pytest.raises(ConfigError, match=r"argument 'model' of deployment 'node'.*leaf\.bind"):
        walk(node.bind(model=leaf))
    with pytest.raises(ConfigError, match=r"leaf\.bind"):
        walk(node.bind([leaf]))


def test_unserializable_argument_is_named_down_to_the_attribute() -> None:
    import threading

    class Client:
        def __init__(self) -> None:
            self.pool = {"first": threading.Lock()}

    with pytest.raises(SerializationError, match=r"'node': argument client\.pool\['first'\] is a _thread\.lock"):
        walk(node.bind(leaf.bind(), client=Client()))
