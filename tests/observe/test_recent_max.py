"""The largest value of the last minute."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.observe.recent_max import SLOT_S, SLOTS, RecentMax


@given(st.lists(st.tuples(st.floats(0.0, 40.0), st.floats(0.0, 1e3))), st.floats(0.0, 200.0))
def test_it_is_the_largest_of_the_last_slots(values: list[tuple[float, float]], later_s: float) -> None:
    now, added = 1000.0, []
    recent = RecentMax(now)
    for passed_s, value in values:
        now += passed_s
        recent.add(value, now)
        added.append((int((now - 1000.0) // SLOT_S), value))
    slot = int((now + later_s - 1000.0) // SLOT_S)
    expected = max((value for at, value in added if slot - at < SLOTS), default=0.0)
    assert recent.largest(now + later_s) == expected
