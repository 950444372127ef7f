"""The token bucket, pure: how much of something may be used per minute."""

from __future__ import annotations


class TokenBucket:
    """Holds a minute's worth at most and fills evenly.

    What turns out to have been too little can be taken later without asking, which leaves the bucket in debt: over time
    no more is used than flows in. (J. Turner, "New directions in communications", IEEE Communications Magazine 24(10),
    1986, describes the leaky bucket, of which this is the mirror image.)

    Args:
        per_minute: what flows in per minute, and the most that it holds.
        now: seconds, of any clock that does not go back.
    """

    __slots__ = ("_at", "_level", "capacity")

    def __init__(self, per_minute: float, now: float) -> None:
        self.capacity = float(per_minute)
        self._level = self.capacity
        self._at = now

    def level(self, now: float) -> float:
        """What is there; negative while in debt."""
        elapsed_s = now - self._at
        if elapsed_s > 0:
            self._level = min(self.capacity, self._level + elapsed_s * self.capacity / 60)
            self._at = now
        return self._level

    def wait_s(self, amount: float, now: float) -> float:
        """How long until `amount` is there, seconds; 0 where it is. More than the capacity has to wait for a full
        bucket, and leaves debt."""
        missing = min(amount, self.capacity) - self.level(now)
        return max(0.0, missing * 60 / self.capacity)

    def take(self, amount: float, now: float) -> None:
        """Take so much, whether or not it is there; give back where it is negative."""
        self._level = min(self.capacity, self.level(now) - amount)

    def full_in_s(self, now: float) -> float:
        """How long until it is full, seconds."""
        return (self.capacity - self.level(now)) * 60 / self.capacity
