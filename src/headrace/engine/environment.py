"""What this machine alone can make of a runtime environment: processes are forked from one that runs already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.config.ray_actor_options import INSTALLING, REMOTE


def why_not_here(runtime_env: Mapping[str, Any]) -> str | None:
    """Why no process can have this environment without a cluster, and what to do; None if one can.

    Args:
        runtime_env: as `ResourceRequest.runtime_env`.
    """
    for option in INSTALLING:
        if runtime_env.get(option):
            instead = "put the modules on the PYTHONPATH, or into 'working_dir'"
            if option != "py_modules":
                instead = "install what the application needs into the environment that Headrace runs in"
            return f"runtime_env.{option} needs a Ray cluster; on one machine, {instead}"
    working_dir = str(runtime_env.get("working_dir") or "")
    if working_dir.startswith(REMOTE):
        return f"runtime_env.working_dir={working_dir!r} needs a Ray cluster; on one machine, download it first"
    return None
