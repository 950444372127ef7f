"""The instance's target capacity: the percentage of all replicas that a config asks for, and which way it goes."""

from __future__ import annotations

import msgspec


class Capacity(msgspec.Struct, frozen=True):
    """
    Attributes:
        percent: of `num_replicas`, `min_replicas`, `max_replicas` and `initial_replicas`, 0 to 100; None for all of
            them.
        grows: it is on its way up; `initial_replicas` is the minimum then.
    """

    percent: float | None = None
    grows: bool = False

    def after(self, percent: float | None, same_applications: bool) -> Capacity:
        """What holds when a config asks for `percent`, in the way of Ray Serve: a first config, or one with other
        applications, is on its way up; the same applications go where the number goes, and down from all."""
        if percent is None:
            return Capacity()
        if not same_applications:
            return Capacity(percent, grows=True)
        if percent == self.percent:
            return self
        return Capacity(percent, grows=self.percent is not None and percent > self.percent)
