"""Finds out what this machine has."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from headrace.engine.resources import Machine
from headrace.exceptions import StartupError

ACCELERATOR_LABEL = "ray.io/accelerator-type"
"""The label that Ray gives to machines with accelerators."""

_NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
_MODEL = re.compile(r"^Model:\s*(.+?)\s*$", re.MULTILINE)
_KIND = re.compile(r"\w+\s+((?:[A-Z]+\s+)*[A-Z0-9]*\d[A-Z0-9]*)")
_CGROUP_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def detect_machine(
    *,
    num_cpus: float | None = None,
    num_gpus: int | None = None,
    memory: int | None = None,
    resources: dict[str, float] | None = None,
) -> Machine:
    """What this process may use of the machine.

    Args:
        num_cpus, num_gpus, memory: what to believe instead of looking; memory in bytes. `$HEADRACE_NUM_GPUS` does for
            GPUs what `num_gpus` does.
        resources: custom resources; they cannot be seen.

    Raises:
        StartupError: `$HEADRACE_NUM_GPUS` is not a number.
    """
    gpus = _gpus(num_gpus)
    accelerator = _accelerator_type() if gpus else None
    return Machine(
        num_cpus=_cpus() if num_cpus is None else num_cpus,
        gpus=gpus,
        memory=_memory() if memory is None else memory,
        resources=dict(resources or {}),
        accelerator_type=accelerator,
        labels={ACCELERATOR_LABEL: accelerator} if accelerator is not None else {},
    )


def _cpus() -> float:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def told_gpus() -> int | None:
    """How many GPUs `$HEADRACE_NUM_GPUS` says there are; None if it says nothing.

    Raises:
        StartupError: it is not a number.
    """
    told = os.environ.get("HEADRACE_NUM_GPUS")
    if not told:
        return None
    if not told.isdecimal():
        raise StartupError(f"HEADRACE_NUM_GPUS must be a whole number of GPUs, not '{told}'")
    return int(told)


def _gpus(number: int | None) -> list[str]:
    if number is None:
        number = told_gpus()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        # The driver takes what comes before the first that it does not know, as "-1" or "NoDevFiles".
        names = [name.strip() for name in visible.split(",")]
        known = [name for name in names if name and name not in ("-1", "NoDevFiles")]
        if number is None or number <= len(known):
            return known[:number]
    if number is None:
        number = _nvidia_gpus()
    return [str(index) for index in range(number)]


def _nvidia_gpus() -> int:
    try:
        return len(list(_NVIDIA_GPUS.iterdir()))
    except OSError:
        pass
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        listed = subprocess.run([program, "--list-gpus"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def _accelerator_type() -> str | None:
    """What Ray calls the kind of the first GPU, from its name: "NVIDIA H100 80GB HBM3" is an "H100"."""
    for information in sorted(_NVIDIA_GPUS.glob("*/information")):
        with contextlib.suppress(OSError):
            model = _MODEL.search(information.read_text())
            if model is None:
                continue
            kind = _KIND.match(model[1])
            name = kind[1] if kind is not None and len(kind[1]) > 1 else model[1].removeprefix("NVIDIA").strip()
            return name.replace(" ", "-")
    return None


def _memory() -> int:
    """Bytes of memory of the machine, or of the container where that has a limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_MEMORY_LIMITS:
        try:
            total = min(total, int(path.read_text()))
        except (OSError, ValueError):
            continue  # no such file, or "max"
    return total
