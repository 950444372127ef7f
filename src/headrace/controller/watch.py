"""Versioned snapshots by key, and a stream for each watcher that carries what changed.

A watcher that is slow gets the newest snapshot of each key that it missed, not the ones between. Setting a snapshot
costs one encoding and one wake-up per watcher of that key; watchers of other keys are not touched.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import msgspec

from headrace.config.spec import DeploymentTargets, RoutingTable, WatchRequest, WatchUpdate

ROUTES = "routes"

Snapshot = RoutingTable | DeploymentTargets


def targets_key(app: str, deployment: str) -> str:
    return f"{app}#{deployment}"


class _Watcher:
    """One stream: the keys that it has yet to send, oldest change first, and a bell."""

    __slots__ = ("bell", "pending")

    def __init__(self) -> None:
        self.pending: dict[str, None] = {}
        self.bell = asyncio.Event()

    def notify(self, key: str) -> None:
        self.pending[key] = None
        self.bell.set()


class WatchHub:
    """The current snapshots, and who wants to know of new ones.

    `unknown` makes the snapshot of a key that was never set. Until `open` is called watchers wait: a controller that
    has just started must not tell of replica sets that it has not found again yet.
    """

    def __init__(self, unknown: Callable[[str], Snapshot]) -> None:
        self._unknown = unknown
        self._snapshots: dict[str, WatchUpdate] = {}
        self._known: set[str] = set()
        self._watchers: dict[str, set[_Watcher]] = {}
        self._opened = asyncio.Event()
        self._encoder = msgspec.msgpack.Encoder()
        # Versions of an earlier controller must not look current, so counting starts at the time of day.
        self._version = time.time_ns() // 1000

    def open(self) -> None:
        self._opened.set()

    def set(self, key: str, value: Snapshot) -> bool:
        """Make `value` the snapshot of `key`. Returns whether that is news."""
        self._known.add(key)
        return self._put(key, value)

    def _put(self, key: str, value: Snapshot) -> bool:
        encoded = self._encoder.encode(value)
        known = self._snapshots.get(key)
        if known is not None and bytes(known.value) == encoded:
            return False
        self._version += 1
        self._snapshots[key] = WatchUpdate(key=key, version=self._version, value=msgspec.Raw(encoded))
        for watcher in self._watchers.get(key, ()):
            watcher.notify(key)
        return True

    def remove(self, key: str) -> None:
        """The key stands for nothing any more: who watches it is told what `unknown` says."""
        if key not in self._known:
            return
        self._known.discard(key)
        if key in self._watchers:
            self._put(key, self._unknown(key))
        else:
            del self._snapshots[key]

    def snapshot(self, key: str) -> WatchUpdate:
        """What a watcher of `key` would be told now."""
        if key not in self._snapshots:
            return WatchUpdate(key=key, version=0, value=msgspec.Raw(self._encoder.encode(self._unknown(key))))
        return self._snapshots[key]

    async def watch(self, request: WatchRequest) -> AsyncIterator[WatchUpdate]:
        """Yields the snapshots that differ from the versions in `request`, then every newer one, for ever."""
        await self._opened.wait()
        watcher = _Watcher()
        for key, version in request.versions.items():
            self._watchers.setdefault(key, set()).add(watcher)
            if key not in self._snapshots:
                self._put(key, self._unknown(key))
            elif self._snapshots[key].version != version:
                watcher.notify(key)
        try:
            while True:
                await watcher.bell.wait()
                watcher.bell.clear()
                while watcher.pending:
                    key = next(iter(watcher.pending))
                    del watcher.pending[key]
                    yield self._snapshots[key]
        finally:
            for key in request.versions:
                self._leave(key, watcher)

    def _leave(self, key: str, watcher: _Watcher) -> None:
        watchers = self._watchers[key]
        watchers.discard(watcher)
        if not watchers:
            del self._watchers[key]
            if key not in self._known:
                del self._snapshots[key]
