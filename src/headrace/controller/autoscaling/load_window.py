"""Load over time as a step function, and one number for the stretch that is looked back on."""

from __future__ import annotations

import msgspec

from headrace.config.autoscaling import AggregationFunction


class LoadWindow(msgspec.Struct, frozen=True):
    """`steps`: (since when, how many), seconds and requests, oldest first; the last one holds until now."""

    steps: tuple[tuple[float, float], ...] = ()

    def observed(self, now: float, value: float, look_back_s: float) -> LoadWindow:
        """With a new observation, and without what lies further back than `look_back_s`."""
        steps = self.steps
        if not steps or steps[-1][1] != value:
            same_time = bool(steps) and steps[-1][0] >= now
            steps = (*(steps[:-1] if same_time else steps), (now, value))
        begin = now - look_back_s
        gone = 0
        while gone + 1 < len(steps) and steps[gone + 1][0] <= begin:
            gone += 1
        return LoadWindow(steps[gone:])

    def aggregate(self, now: float, look_back_s: float, how: AggregationFunction) -> float:
        """The mean (each value weighted by how long it held), the highest or the lowest value since
        `now - look_back_s`, or since the first observation if that is later; 0 where nothing was observed."""
        if not self.steps:
            return 0.0
        if how is AggregationFunction.MAX:
            return max(value for _, value in self.steps)
        if how is AggregationFunction.MIN:
            return min(value for _, value in self.steps)
        begin = max(self.steps[0][0], now - look_back_s)
        if now <= begin:
            return self.steps[-1][1]
        ends = [since for since, _ in self.steps[1:]] + [now]
        area = sum(
            value * (end - max(since, begin))
            for (since, value), end in zip(self.steps, ends, strict=True)
            if end > begin
        )
        return area / (now - begin)

    def growth_per_s(self, now: float, since: float) -> float:
        """How much more it became per second, from `since` (or the first observation, if that is later) until now."""
        if not self.steps:
            return 0.0
        begin = max(self.steps[0][0], since)
        before = next((value for at, value in reversed(self.steps) if at <= begin), self.steps[0][1])
        return (self.steps[-1][1] - before) / (now - begin) if now > begin else 0.0

    @property
    def constant(self) -> bool:
        """Whether its aggregates stay as they are for as long as nothing new is observed."""
        return len(self.steps) <= 1

    def changes_by(self, look_back_s: float) -> float:
        """When its oldest value has left the window, seconds on the clock of the observations."""
        return self.steps[1][0] + look_back_s
