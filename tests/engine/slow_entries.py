"""Entries in a module that takes a while to import."""

from __future__ import annotations

import fastapi  # noqa: F401
from engine_entries import proxy as proxy
from engine_entries import serve_wire as serve_wire
