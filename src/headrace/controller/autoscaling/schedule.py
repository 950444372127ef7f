"""Which minimum a schedule sets at a moment, and until when: values in, values out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from headrace.config.schedule import ScheduleEntry, zone_of

_OVERLAP = timedelta(hours=3)
"""Times are looked for from so far beyond the moment on: clock times that come twice, as when clocks are turned back,
do not tell on which side of the moment they are."""


class Scheduled(msgspec.Struct, frozen=True):
    """
    Attributes:
        min_replicas: the highest minimum of the entries that hold at the moment, 0 where none does.
        until: when that may be another one; None for never.
        reason: which entry sets it, for people.
    """

    min_replicas: int = 0
    until: datetime | None = None
    reason: str = ""


def scheduled_at(entries: Sequence[ScheduleEntry], moment: datetime) -> Scheduled:
    """What a schedule says at a moment, which must know its time zone.

    An entry holds from each time of its `cron` on, that moment included, for `duration_s` or until the next time of its
    `until`, that moment excluded. Where clocks are turned, times are taken as Debian's cron does: what would begin in
    the hour that is skipped begins right after it, and what begins in the hour that comes twice begins once.
    """
    now = moment.astimezone(UTC)
    minimum, changes, reason = 0, [], ""
    for entry in entries:
        end = _holds_until(entry, now)
        if end is not None:
            changes.append(end)
            if entry.min_replicas > minimum:
                minimum, reason = entry.min_replicas, f"the schedule '{entry.cron}' ({entry.timezone})"
        start = _following(entry.cron, entry, now)
        if start is not None:
            changes.append(start)
    return Scheduled(minimum, min(changes, default=None), reason)


def _holds_until(entry: ScheduleEntry, now: datetime) -> datetime | None:
    """When the stretch that the moment lies in ends; None where it lies in none."""
    start = _last(entry.cron, entry, now)
    if start is None:
        return None
    if entry.duration_s is not None:
        end = start + timedelta(seconds=entry.duration_s)
        return end if now < end else None
    assert entry.until is not None
    found = _following(entry.until, entry, start)
    # Without an end it holds for good, and is looked at again whenever it begins anew.
    return found if found is None or now < found else None


def _following(expression: str, entry: ScheduleEntry, moment: datetime) -> datetime | None:
    """The first time after a moment."""
    times = _times(expression, entry, moment - _OVERLAP, reverse=False)
    return next((time for time in times if time > moment), None)


def _last(expression: str, entry: ScheduleEntry, moment: datetime) -> datetime | None:
    """The last time up to a moment, which may be the moment itself."""
    times = _times(expression, entry, moment + _OVERLAP, reverse=True)
    return next((time for time in times if time <= moment), None)


def _times(expression: str, entry: ScheduleEntry, moment: datetime, reverse: bool) -> Iterator[datetime]:
    from cronsim import CronSim  # see `config.schedule`

    for time in CronSim(expression, moment.astimezone(zone_of(entry.timezone)), reverse=reverse):
        yield time.astimezone(UTC)
