"""Known peaks: from when to when a deployment has at least so many replicas."""

from __future__ import annotations

import functools
import zoneinfo
from datetime import UTC, datetime
from typing import ClassVar, Self

from pydantic import field_validator, model_validator

from headrace.config.model import ConfigModel, PositiveInt, PositiveNumber
from headrace.config.problems import mistake, nearest, shown

_EXAMPLE = "five fields: minute, hour, day of the month, month, day of the week, as in '0 8 * * mon-fri'"


class ScheduleEntry(ConfigModel):
    """One recurring stretch of time.

    Attributes:
        cron: when it begins: a cron expression of five fields, as Debian's cron reads them.
        duration_s: for how long it lasts, seconds of elapsed time.
        until: when it ends, a cron expression too. Exactly one of `duration_s` and `until` is given.
        timezone: of both expressions, a name of the IANA time zone database.
        min_replicas: never fewer meanwhile, unless `max_replicas` is lower.
    """

    title: ClassVar[str] = "wrong schedule entry"

    cron: str
    duration_s: PositiveNumber | None = None
    until: str | None = None
    timezone: str = "UTC"
    min_replicas: PositiveInt

    @field_validator("cron", "until")
    @classmethod
    def _possible_expression(cls, expression: str | None) -> str | None:
        if expression is not None:
            problem = _expression_problem(expression)
            if problem is not None:
                raise ValueError(problem)
        return expression

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            zone_of(name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            known = zoneinfo.available_timezones()
            if not known:
                raise ValueError(
                    f"{shown(name)} cannot be looked up, since this machine has no time zone database; "
                    "install the package 'tzdata'"
                ) from None
            meant = nearest(name, known)
            hint = f"; did you mean '{meant}'?" if meant else ""
            raise ValueError(f"must be a time zone such as 'Europe/Berlin', not {shown(name)}{hint}") from None
        return name

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if (self.duration_s is None) == (self.until is None):
            both = "exclude each other; remove one of them" if self.until is not None else "are both missing; give one"
            raise mistake(f"duration_s and until {both}", "duration_s")
        return self


@functools.cache
def zone_of(name: str) -> zoneinfo.ZoneInfo:
    """The time zone of that name.

    Raises:
        zoneinfo.ZoneInfoNotFoundError, ValueError, OSError: there is none.
    """
    return zoneinfo.ZoneInfo(name)


def _expression_problem(expression: str) -> str | None:
    # Imported where it is needed: most deployments have no schedule.
    from cronsim import CronSim, CronSimError

    if len(expression.split()) != 5:
        return f"must be a cron expression of {_EXAMPLE}, not {shown(expression)}"
    try:
        next(CronSim(expression, datetime(2024, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        field = str(error).removeprefix("Bad ")
        return f"is no cron expression: wrong {field} in {shown(expression)}; it needs {_EXAMPLE}"
    except StopIteration:
        return f"names a time that never comes: {shown(expression)}"
    return None
