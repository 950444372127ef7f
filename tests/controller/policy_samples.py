"""Autoscaling policies for processes of their own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from headrace.config import AutoscalingContext


class Sluggish:
    """Answers when there is a file, and counts its calls."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def __call__(self, ctx: AutoscalingContext) -> Any:
        while not self.file.exists():
            time.sleep(0.01)
        return 2, {"calls": ctx.policy_state.get("calls", 0) + 1}
