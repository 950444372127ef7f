"""Which minimum a schedule sets, and when it sets another one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.config.autoscaling import AutoscalingConfig
from headrace.config.schedule import ScheduleEntry
from headrace.controller.autoscaling.schedule import scheduled_at
from headrace.exceptions import ConfigError

BERLIN = ZoneInfo("Europe/Berlin")
NINE_TO_FIVE = {"cron": "0 9 * * mon-fri", "duration_s": 8 * 3600, "timezone": "Europe/Berlin", "min_replicas": 10}


def at(text: str, zone: ZoneInfo = BERLIN) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


def entry(**options: Any) -> ScheduleEntry:
    return ScheduleEntry(**{**NINE_TO_FIVE, **options})


@pytest.mark.parametrize(
    ("moment", "minimum", "until"),
    [
        ("2026-03-02 08:59:59", 0, "2026-03-02 09:00"),  # a Monday
        ("2026-03-02 09:00", 10, "2026-03-02 17:00"),
        ("2026-03-02 16:59:59", 10, "2026-03-02 17:00"),
        ("2026-03-02 17:00", 0, "2026-03-03 09:00"),
        ("2026-03-06 17:00", 0, "2026-03-09 09:00"),  # over the weekend
    ],
)
def test_an_entry_holds_from_its_time_on_for_its_duration(moment: str, minimum: int, until: str) -> None:
    found = scheduled_at([entry()], at(moment))
    assert (found.min_replicas, found.until) == (minimum, at(until))


def test_an_end_can_be_a_cron_expression_too() -> None:
    evening = entry(cron="0 20 * * fri", duration_s=None, until="0 2 * * *")
    assert scheduled_at([evening], at("2026-03-06 23:00")).min_replicas == 10
    assert scheduled_at([evening], at("2026-03-07 01:59")).until == at("2026-03-07 02:00")
    assert scheduled_at([evening], at("2026-03-07 02:00")).min_replicas == 0


def test_of_several_entries_the_highest_minimum_counts_and_is_named() -> None:
    noon = entry(cron="0 12 * * *", duration_s=3600, min_replicas=30)
    found = scheduled_at([entry(), noon], at("2026-03-02 12:30"))
    assert (found.min_replicas, found.until) == (30, at("2026-03-02 13:00"))
    assert "0 12 * * *" in found.reason
    assert scheduled_at([entry(), noon], at("2026-03-02 13:00")).min_replicas == 10
    assert scheduled_at([], at("2026-03-02 13:00")).until is None


def test_a_duration_longer_than_the_distance_between_its_times_never_ends() -> None:
    always = entry(cron="0 * * * *", duration_s=7200)
    now = at("2026-03-28 22:30")
    for _ in range(20):  # over the night in which clocks are turned
        found = scheduled_at([always], now)
        assert found.min_replicas == 10 and found.until is not None
        now = found.until


# When clocks are turned.


def test_what_would_begin_in_the_hour_that_is_skipped_begins_right_after_it() -> None:
    early = entry(cron="30 2 * * *", duration_s=3600)
    assert scheduled_at([early], at("2026-03-29 01:59")).until == at("2026-03-29 03:00")
    found = scheduled_at([early], at("2026-03-29 03:00"))
    assert (found.min_replicas, found.until) == (10, at("2026-03-29 04:00"))


def test_what_begins_in_the_hour_that_comes_twice_begins_once() -> None:
    early = entry(cron="30 2 * * *", duration_s=600)
    first = at("2026-10-25 02:30").astimezone(UTC)
    found = scheduled_at([early], first)
    assert (found.min_replicas, found.until) == (10, first + timedelta(minutes=10))
    second = first + timedelta(hours=1)
    assert second.astimezone(BERLIN).strftime("%H:%M") == "02:30"
    found = scheduled_at([early], second)
    assert (found.min_replicas, found.until) == (0, at("2026-10-26 02:30"))
    assert scheduled_at([early], second - timedelta(minutes=20)).until == at("2026-10-26 02:30")


def test_a_duration_is_elapsed_time_and_an_end_is_clock_time() -> None:
    midnight = at("2026-03-29 00:00").astimezone(UTC)  # a day of 23 hours
    by_duration = entry(cron="0 0 * * *", duration_s=6 * 3600)
    by_clock = entry(cron="0 0 * * *", duration_s=None, until="0 6 * * *")
    assert scheduled_at([by_duration], midnight).until == midnight + timedelta(hours=6)
    assert scheduled_at([by_clock], midnight).until == midnight + timedelta(hours=5)


def test_the_same_clock_time_in_summer_and_winter() -> None:
    for day in ("2026-01-05", "2026-07-06"):
        assert scheduled_at([entry()], at(f"{day} 09:00")).min_replicas == 10
        assert scheduled_at([entry()], at(f"{day} 08:59")).min_replicas == 0


# Whatever the schedule.

expressions = st.builds(
    lambda minute, hour, days: f"{minute} {hour} * * {days}",
    st.sampled_from(["0", "30", "15,45", "*/20"]),
    st.sampled_from(["*", "2", "*/6", "1-3", "9"]),
    st.sampled_from(["*", "mon-fri", "sun"]),
)
entries = st.builds(
    lambda cron, ends, zone, least: ScheduleEntry(cron=cron, **ends, timezone=zone, min_replicas=least),
    expressions,
    st.one_of(
        st.builds(lambda length: {"duration_s": length}, st.floats(60, 200_000)),
        st.builds(lambda until: {"until": until}, expressions),
    ),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]),
    st.integers(1, 9),
)
# Around the nights in which some clock is turned, and any other time.
moments = st.one_of(
    st.sampled_from(["2026-03-29", "2026-10-25", "2026-03-08", "2026-11-01", "2026-04-05", "2026-10-04"])
    .map(lambda day: datetime.fromisoformat(day).replace(tzinfo=UTC))
    .flatmap(lambda day: st.integers(-30 * 60, 30 * 60).map(lambda minutes: day + timedelta(minutes=minutes))),
    st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(entries, max_size=3), moments, st.floats(0, 1))
def test_nothing_changes_before_the_time_that_is_told(
    schedule: list[ScheduleEntry], moment: datetime, share: float
) -> None:
    found = scheduled_at(schedule, moment)
    if not schedule:
        assert (found.min_replicas, found.until) == (0, None)
        return
    assert found.until is not None and found.until > moment
    meanwhile = moment + share * (found.until - moment)
    if meanwhile < found.until:
        assert scheduled_at(schedule, meanwhile).min_replicas == found.min_replicas
    assert scheduled_at(schedule, found.until - timedelta(microseconds=1)).min_replicas == found.min_replicas


@settings(deadline=None, max_examples=100)
@given(st.lists(entries, min_size=1, max_size=4), moments)
def test_several_entries_are_the_maximum_of_each_by_itself(schedule: list[ScheduleEntry], moment: datetime) -> None:
    alone = [scheduled_at([one], moment) for one in schedule]
    together = scheduled_at(schedule, moment)
    assert together.min_replicas == max(found.min_replicas for found in alone)
    assert together.until == min(found.until for found in alone if found.until is not None)


# Mistakes.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cron": "0 25 * * *"}, "schedule[0].cron: is no cron expression: wrong hour in '0 25 * * *'"),
        ({"cron": "0 9 * *"}, "schedule[0].cron: must be a cron expression of five fields"),
        ({"cron": "0 0 31 2 *"}, "schedule[0].cron: is no cron expression: wrong day-of-month"),
        ({"cron": "0 0 29 2 mon#5", "until": "x"}, "schedule[0].until: must be a cron expression"),
        ({"timezone": "Europe/Berlim"}, "schedule[0].timezone: must be a time zone such as 'Europe/Berlin'"),
        ({"timezone": "Europe/Berlim"}, "did you mean 'Europe/Berlin'?"),
        ({"until": "0 17 * * *"}, "schedule[0].duration_s: duration_s and until exclude each other"),
        ({"duration_s": None}, "schedule[0].duration_s: duration_s and until are both missing"),
        ({"min_replicas": 0}, "schedule[0].min_replicas: must be at least 1"),
        ({"min_replicas": 21}, "schedule[0].min_replicas: must be at most max_replicas (20), not 21"),
        ({"min_replica": 3}, "did you mean 'min_replicas'?"),
    ],
)
def test_mistakes_name_the_field(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AutoscalingConfig(max_replicas=20, schedule=[{**NINE_TO_FIVE, **options}])  # type: ignore[list-item]
    assert says in str(caught.value)


def test_a_schedule_survives_the_way_to_the_controller() -> None:
    config = AutoscalingConfig(max_replicas=20, schedule=[entry()])
    assert AutoscalingConfig(**config.model_dump(mode="json")) == config
