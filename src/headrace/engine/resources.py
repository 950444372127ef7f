"""Who gets which part of a machine. Pure bookkeeping: nothing here looks at the machine or starts anything.

GPUs, memory and custom resources are strict: what is given out never exceeds what is there. CPUs are a hint: a laptop
with two cores runs five deployments that ask for one each, with a warning.

Amounts are counted in ten-thousandths (`PARTS`), as Ray counts them, so that ten tenths of a GPU are one GPU.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Literal

import msgspec

PARTS = 10_000
"""Parts that one GPU, CPU or unit of a custom resource is counted in."""


class ResourceRequest(msgspec.Struct, kw_only=True, frozen=True):
    """What one process asks for.

    Attributes:
        num_cpus: cores; a hint, never a reason not to start.
        num_gpus: a fraction of one GPU (0 to 1), or a whole number of GPUs.
        memory: bytes to reserve; None or 0 for no reservation. It is bookkeeping, the process is not held to it.
        resources: amounts of custom resources by name.
    """

    num_cpus: float = 0.0
    num_gpus: float = 0.0
    memory: int | None = None
    resources: dict[str, float] = {}


class Machine(msgspec.Struct, kw_only=True, frozen=True):
    """What there is.

    Attributes:
        num_cpus: cores that this user may use.
        gpus: what each GPU is called in `CUDA_VISIBLE_DEVICES`: an index of the driver's, or a UUID.
        memory: bytes.
        resources: amounts of custom resources by name.
    """

    num_cpus: float
    gpus: list[str] = []
    memory: int = 0
    resources: dict[str, float] = {}


class Allocation(msgspec.Struct, kw_only=True, frozen=True):
    """What one process got.

    Attributes:
        request: what it had asked for.
        gpu_indices: places in `Machine.gpus`.
        env: what to set in the process. `CUDA_VISIBLE_DEVICES` is set for a process that has GPUs, and is left as it
            is for one that has none, as Ray does.
        warning: for a person to read, once per instance: more CPUs are asked for than there are.
    """

    request: ResourceRequest
    gpu_indices: list[int] = []
    env: dict[str, str] = {}
    warning: str | None = None


class Refusal(msgspec.Struct, kw_only=True, frozen=True):
    """Why there is nothing for a process. "never": it cannot fit even when all else has ended. "not_now": it could."""

    kind: Literal["never", "not_now"]
    reason: str


def _parts(amount: float) -> int:
    return round(amount * PARTS)


def _shown(amount: float) -> str:
    return f"{amount:g}"


def _memory_shown(size: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} bytes"


class Allocator:
    """Gives out a machine's resources by the names of processes.

    Args:
        machine: what there is to give out.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._held: dict[str, Allocation] = {}
        self._gpu_parts_used = [0] * len(machine.gpus)
        self._cpu_parts_used = 0
        self._memory_used = 0
        self._custom_parts_used = dict.fromkeys(machine.resources, 0)
        self._warned = False

    @property
    def held(self) -> Mapping[str, Allocation]:
        """What is given out, by name."""
        return self._held

    def allocate(self, name: str, request: ResourceRequest) -> Allocation | Refusal:
        """Set resources aside for the process `name`, until `release(name)`. Asking again gives the same answer.

        Args:
            name: the process.
            request: what it needs.

        Raises:
            ValueError: `name` already holds something else.
        """
        held = self._held.get(name)
        if held is not None:
            if held.request != request:
                raise ValueError(f"'{name}' already holds resources for another request; release them first")
            return held
        never = self._why_never(request)
        if never is not None:
            return Refusal(kind="never", reason=never)
        gpu_indices = self._choose_gpus(_parts(request.num_gpus))
        if gpu_indices is None:
            return Refusal(kind="not_now", reason=self._why_no_gpus_now(request.num_gpus))
        not_now = self._why_not_now(request)
        if not_now is not None:
            return Refusal(kind="not_now", reason=not_now)
        env = {"CUDA_VISIBLE_DEVICES": ",".join(self.machine.gpus[i] for i in gpu_indices)} if gpu_indices else {}
        allocation = Allocation(request=request, gpu_indices=gpu_indices, env=env, warning=self._cpu_warning(request))
        self.restore(name, allocation)
        return allocation

    def restore(self, name: str, allocation: Allocation) -> None:
        """Note what a running process got from an allocator before this one."""
        self.release(name)
        self._held[name] = allocation
        self._count(allocation, +1)

    def release(self, name: str) -> None:
        """Take back what `name` holds; nothing happens if it holds nothing."""
        allocation = self._held.pop(name, None)
        if allocation is not None:
            self._count(allocation, -1)

    def _count(self, allocation: Allocation, sign: int) -> None:
        request = allocation.request
        self._cpu_parts_used += sign * _parts(request.num_cpus)
        self._memory_used += sign * (request.memory or 0)
        each = min(_parts(request.num_gpus), PARTS)
        for index in allocation.gpu_indices:
            if index >= len(self._gpu_parts_used):  # restored from a time when more GPUs were visible
                continue
            self._gpu_parts_used[index] += sign * each
        for name, amount in request.resources.items():
            self._custom_parts_used[name] = self._custom_parts_used.get(name, 0) + sign * _parts(amount)

    def _choose_gpus(self, parts: int) -> list[int] | None:
        """The GPUs for a request, or None while there are none. A fraction goes where it leaves the least room, so that
        whole GPUs stay whole for those who need them."""
        if parts == 0:
            return []
        used = self._gpu_parts_used
        if parts < PARTS:
            fitting = [index for index in range(len(used)) if used[index] + parts <= PARTS]
            return [max(fitting, key=lambda index: (used[index], -index))] if fitting else None
        free = [index for index in range(len(used)) if used[index] == 0]
        count = parts // PARTS
        return free[:count] if len(free) >= count else None

    def _why_never(self, request: ResourceRequest) -> str | None:
        machine = self.machine
        amounts = [request.num_cpus, request.num_gpus, request.memory or 0, *request.resources.values()]
        if any(amount < 0 for amount in amounts):
            return "it asks for a negative amount of a resource"
        gpu_parts = _parts(request.num_gpus)
        if gpu_parts > PARTS and gpu_parts % PARTS:
            wanted = _shown(request.num_gpus)
            return f"num_gpus={wanted} is neither a fraction of one GPU (0 to 1) nor a whole number of GPUs"
        if request.num_gpus > 0 and gpu_parts == 0:
            return f"num_gpus={_shown(request.num_gpus)} is less than the smallest share, {1 / PARTS:g} of a GPU"
        if gpu_parts > PARTS * len(machine.gpus):
            return f"it needs {_shown(request.num_gpus)} GPUs, this machine has {len(machine.gpus) or 'none'}"
        if (request.memory or 0) > machine.memory:
            wanted = _memory_shown(request.memory or 0)
            return f"it needs {wanted} of memory, this machine has {_memory_shown(machine.memory)}"
        for name, amount in request.resources.items():
            there = machine.resources.get(name, 0.0)
            if _parts(amount) > _parts(there):
                has = _shown(there) if there else "none"
                return (
                    f"it needs {_shown(amount)} of the resource '{name}', this machine has {has}{self._nearest(name)}"
                )
        return None

    def _nearest(self, name: str) -> str:
        if name in self.machine.resources:
            return ""
        near = difflib.get_close_matches(name, self.machine.resources, n=1)
        return f" (did you mean '{near[0]}'?)" if near else " (custom resources are declared when the instance starts)"

    def _why_no_gpus_now(self, num_gpus: float) -> str:
        holders = ", ".join(sorted(name for name, held in self._held.items() if held.gpu_indices))
        if num_gpus < 1:
            most = max(PARTS - used for used in self._gpu_parts_used) / PARTS
            return f"it needs {_shown(num_gpus)} of a GPU, at most {_shown(most)} of one is free (held by {holders})"
        free = self._gpu_parts_used.count(0)
        total = len(self._gpu_parts_used)
        whole = "a whole GPU" if num_gpus == 1 else f"{_shown(num_gpus)} whole GPUs"
        return f"it needs {whole}, {free} of {total} are free (held by {holders})"

    def _why_not_now(self, request: ResourceRequest) -> str | None:
        machine = self.machine
        wanted = request.memory or 0
        if wanted and self._memory_used + wanted > machine.memory:
            free = machine.memory - self._memory_used
            return (
                f"it needs {_memory_shown(wanted)} of memory, "
                f"{_memory_shown(max(0, free))} of {_memory_shown(machine.memory)} are not reserved"
            )
        for name, amount in request.resources.items():
            there = machine.resources.get(name, 0.0)
            used = self._custom_parts_used.get(name, 0)
            if _parts(amount) and used + _parts(amount) > _parts(there):
                free_amount = max(0.0, there - used / PARTS)
                return (
                    f"it needs {_shown(amount)} of the resource '{name}', "
                    f"{_shown(free_amount)} of {_shown(there)} are free"
                )
        return None

    def _cpu_warning(self, request: ResourceRequest) -> str | None:
        asked = self._cpu_parts_used + _parts(request.num_cpus)
        if not request.num_cpus or asked <= _parts(self.machine.num_cpus) or self._warned:
            return None
        self._warned = True
        return (
            f"replicas ask for {_shown(asked / PARTS)} CPUs together, this machine has "
            f"{_shown(self.machine.num_cpus)}: they share them"
        )
