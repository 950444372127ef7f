"""Gangs, by the name that Ray Serve's users import them under."""

from __future__ import annotations

from headrace.router.replica_context import GangContext

__all__ = ["GangContext"]
