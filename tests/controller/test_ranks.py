"""Ranks are closed up with as few changes as can be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.controller.ranks import Rank, closed, closed_places, joining

ranks = st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.integers(0, 12), max_size=10)


@given(ranks)
def test_afterwards_there_is_each_rank_once_and_no_gap(ranks: dict[str, int]) -> None:
    assert sorted({**ranks, **closed(ranks)}.values()) == list(range(len(ranks)))


@given(ranks)
def test_no_more_replicas_change_than_there_are_gaps(ranks: dict[str, int]) -> None:
    gaps = set(range(len(ranks))) - set(ranks.values())
    assert len(closed(ranks)) == len(gaps)


@given(ranks)
def test_ranks_that_are_closed_stay(ranks: dict[str, int]) -> None:
    assert closed({**ranks, **closed(ranks)}) == {}


def test_the_last_ones_fill_the_gaps() -> None:
    assert closed({"a": 0, "b": 3, "c": 2, "d": 5}) == {"d": 1}


NODES = st.sampled_from(["a", "b", "c"])


@st.composite
def histories(draw: st.DrawFn) -> dict[str, tuple[str, Rank]]:
    """Replicas that have come to machines, of which some have gone again."""
    places: dict[str, tuple[str, Rank]] = {}
    for number, (node, leaver) in enumerate(draw(st.lists(st.tuples(NODES, st.integers(0, 12)), max_size=12))):
        rank = next(r for r in range(100) if r not in {place.rank for _, place in places.values()})
        places[f"r{number}"] = (node, joining(rank, node, list(places.values())))
        if leaver < len(places):
            del places[sorted(places)[leaver]]
    return places


@given(histories())
def test_replicas_of_one_machine_agree_on_its_rank_and_differ_in_their_own(places: dict[str, tuple[str, Rank]]) -> None:
    for node in {node for node, _ in places.values()}:
        here = [place for where, place in places.values() if where == node]
        assert len({place.node for place in here}) == 1
        assert len({place.local for place in here}) == len(here)
    assert len({place.node for _, place in places.values()}) == len({node for node, _ in places.values()})


@given(histories())
def test_afterwards_machines_and_the_replicas_of_each_have_each_rank_once(places: dict[str, tuple[str, Rank]]) -> None:
    new = {replica: (node, closed_places(places).get(replica, place)) for replica, (node, place) in places.items()}
    nodes = {node for node, _ in new.values()}
    assert sorted(place.rank for _, place in new.values()) == list(range(len(new)))
    assert sorted({place.node for _, place in new.values()}) == list(range(len(nodes)))
    for node in nodes:
        here = [place.local for where, place in new.values() if where == node]
        assert sorted(here) == list(range(len(here)))
    assert closed_places(new) == {}


@given(st.permutations(range(6)), st.sets(st.integers(0, 5)))
def test_on_one_machine_a_replica_has_one_rank(order: list[int], gone: set[int]) -> None:
    places: dict[str, tuple[str, Rank]] = {}
    for rank in order:
        places[f"r{rank}"] = ("here", joining(rank, "here", list(places.values())))
    assert all(place == Rank(place.rank, 0, place.rank) for _, place in places.values())
    left = {replica: found for replica, found in places.items() if found[1].rank not in gone}
    assert all(place == Rank(place.rank, 0, place.rank) for place in closed_places(left).values())
