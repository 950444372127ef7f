"""Who gets which part of this machine. Pure bookkeeping: nothing here looks at the machine or starts anything.

GPUs, memory and custom resources are strict: what is given out never exceeds what is there. CPUs are a hint: a laptop
with two cores runs five deployments that ask for one each, with a warning.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import msgspec

from headrace.engine.amounts import ACCELERATOR, PARTS, in_words, number_shown, parts, shown
from headrace.engine.bundles import Bundle, bundles_of, together
from headrace.engine.labels import missing_label
from headrace.engine.resources import Allocation, Machine, Refusal, ResourceRequest


class _Share(msgspec.Struct, frozen=True):
    """A part of one GPU: its place in `Machine.gpus`, and how much of it."""

    gpu: int
    parts: int


class Allocator:
    """Gives out a machine's resources by the names of processes.

    The first member of a gang that asks gets what it needs only if there is enough for all; the others ask before
    anything else does.

    Args:
        machine: what there is to give out.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._held: dict[str, Allocation] = {}
        self._gpu_parts_used = [0] * len(machine.gpus)
        self._cpu_parts_used = 0
        self._used: dict[str, int] = {}  # of memory and custom resources
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
        wanted = bundles_of(request)
        one = wanted[: len(request.bundles) or 1]
        never = self._why_never(request, wanted)
        if never is not None:
            return Refusal(kind="never", reason=never)
        # Once one member of a gang has its share, there is enough for the others.
        asked = one if self._gang_has_begun(request) else wanted
        not_now = self._why_not_now(request, asked)
        if not_now is not None:
            return Refusal(kind="not_now", reason=not_now)
        shares = _choose(one, self._gpu_parts_used)
        assert shares is not None, "there was enough for more than this"
        allocation = self._granted(request, one, shares)
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

    def _granted(self, request: ResourceRequest, one: Sequence[Bundle], shares: Sequence[_Share]) -> Allocation:
        of_gpus: dict[int, int] = {}
        for share in shares:
            of_gpus[share.gpu] = of_gpus.get(share.gpu, 0) + share.parts
        return Allocation(
            request=request,
            gpu_indices=list(of_gpus),
            gpu_parts=list(of_gpus.values()),
            env={"CUDA_VISIBLE_DEVICES": ",".join(self.machine.gpus[i] for i in of_gpus)} if of_gpus else {},
            warning=self._cpu_warning(together(one).get("CPU", 0.0)),
        )

    def _count(self, allocation: Allocation, sign: int) -> None:
        request = allocation.request
        bundles = bundles_of(request)
        whole = together(bundles[: len(request.bundles) or 1])
        self._cpu_parts_used += sign * parts(whole.pop("CPU", 0.0))
        whole.pop("GPU", None)
        for index, share in zip(allocation.gpu_indices, allocation.gpu_parts, strict=True):
            if index < len(self._gpu_parts_used):  # else it is restored from a time when more GPUs were visible
                self._gpu_parts_used[index] += sign * share
        for resource, amount in whole.items():
            self._used[resource] = self._used.get(resource, 0) + sign * parts(amount)

    def _gang_has_begun(self, request: ResourceRequest) -> bool:
        if request.gang is None:
            return True
        gangs = (held.request.gang for held in self._held.values())
        return any(gang is not None and gang.id == request.gang.id for gang in gangs)

    # What is refused, and why.

    def _why_never(self, request: ResourceRequest, wanted: Sequence[Bundle]) -> str | None:
        machine = self.machine
        if request.strategy == "STRICT_SPREAD" and len(request.bundles) > 1:
            return (
                f"STRICT_SPREAD puts each of its {len(request.bundles)} bundles on a machine of its own, "
                "and there is one machine; use 'PACK'"
            )
        for bundle in wanted:
            wrong = _wrong_amount(bundle) or self._wrong_accelerator(bundle)
            if wrong is not None:
                return wrong
        unmet = self._unmet_label(request)
        if unmet is not None:
            return unmet
        if _choose(wanted, [0] * len(machine.gpus)) is None:
            gpus = in_words("GPU", together(wanted)["GPU"])
            return f"{_subject(request, wanted)} {gpus}, this machine has {len(machine.gpus) or 'none'}"
        for resource, amount in _strict(wanted).items():
            there = self._there(resource)
            if parts(amount) > parts(there):
                has = number_shown(resource, there) if there else f"none{self._nearest(resource)}"
                return f"{_subject(request, wanted)} {in_words(resource, amount)}, this machine has {has}"
        return None

    def _wrong_accelerator(self, bundle: Bundle) -> str | None:
        for resource in bundle.amounts:
            kind = resource.removeprefix(ACCELERATOR)
            if kind == resource:
                continue
            if not self.machine.gpus:
                return f"{bundle.name} needs an accelerator {kind}, this machine has no GPU"
            # Where it cannot be told which kind there is, who starts the instance is believed to know.
            there = self.machine.accelerator_type
            if there is not None and there.partition("-")[0] != kind.partition("-")[0]:  # "A100-40G" is an "A100"
                return f"{bundle.name} needs an accelerator {kind}, this machine has {self.machine.accelerator_type}"
        return None

    def _unmet_label(self, request: ResourceRequest) -> str | None:
        labels = self.machine.labels
        fallbacks = [fallback.get("label_selector") or {} for fallback in request.fallback_strategy]
        # The last that is tried is told of only where all fail: the first is what was wanted.
        unmet = [missing_label(labels, selector) for selector in (request.label_selector, *fallbacks)]
        if all(unmet):
            return self._no_label("it", unmet[0])
        for bundle in bundles_of(request, {}):
            missing = missing_label(labels, bundle.selector)
            if missing is not None:
                return self._no_label(bundle.name, missing)
        return None

    def _no_label(self, name: str, missing: str | None) -> str:
        has = ", ".join(f"{label}={value}" for label, value in sorted(self.machine.labels.items()))
        return f"{name} needs a machine with the label {missing}, this machine has {has or 'no labels'}"

    def _there(self, resource: str) -> float:
        return float(self.machine.memory) if resource == "memory" else self.machine.resources.get(resource, 0.0)

    def _nearest(self, resource: str) -> str:
        if resource == "memory" or resource in self.machine.resources:
            return ""
        near = difflib.get_close_matches(resource, self.machine.resources, n=1)
        return f" (did you mean '{near[0]}'?)" if near else " (custom resources are declared when the instance starts)"

    def _why_not_now(self, request: ResourceRequest, wanted: Sequence[Bundle]) -> str | None:
        if request.max_per_node is not None:
            running = sum(held.request.group == request.group for held in self._held.values())
            if running >= request.max_per_node:
                replicas = "1 replica" if running == 1 else f"{running} replicas"
                return f"this machine runs {replicas} of it already (max_replicas_per_node={request.max_per_node})"
        if _choose(wanted, self._gpu_parts_used) is None:
            return self._why_no_gpus_now(request, wanted)
        for resource, amount in _strict(wanted).items():
            there = self._there(resource)
            free = there - self._used.get(resource, 0) / PARTS
            if parts(amount) > parts(free):
                left = f"{number_shown(resource, max(0.0, free))} of {number_shown(resource, there)}"
                are = "are not reserved" if resource == "memory" else "are free"
                return f"{_subject(request, wanted)} {in_words(resource, amount)}, {left} {are}"
        return None

    def _why_no_gpus_now(self, request: ResourceRequest, wanted: Sequence[Bundle]) -> str:
        holders = ", ".join(sorted(name for name, held in self._held.items() if held.gpu_indices))
        needs = f"{_subject(request, wanted)} {_gpus_in_words(wanted)}"
        if all(bundle.amounts.get("GPU", 0.0) < 1 for bundle in wanted):
            most = max(PARTS - used for used in self._gpu_parts_used) / PARTS
            return f"{needs}, at most {shown(most)} of one is free (held by {holders})"
        free = self._gpu_parts_used.count(0)
        return f"{needs}, {free} of {len(self._gpu_parts_used)} are free (held by {holders})"

    def _cpu_warning(self, cpus: float) -> str | None:
        asked = self._cpu_parts_used + parts(cpus)
        if not cpus or asked <= parts(self.machine.num_cpus) or self._warned:
            return None
        self._warned = True
        return (
            f"replicas ask for {shown(asked / PARTS)} CPUs together, this machine has "
            f"{shown(self.machine.num_cpus)}: they share them"
        )


def _choose(bundles: Sequence[Bundle], used: Sequence[int]) -> list[_Share] | None:
    """Parts of GPUs for bundles, or None while there are none. `used`: parts of each GPU that are taken.

    Whole ones first. A fraction goes where it leaves the least room, so that whole GPUs stay whole for those who need
    them.
    """
    used = list(used)
    shares: list[_Share] = []
    for wanted in sorted((parts(bundle.amounts.get("GPU", 0.0)) for bundle in bundles), reverse=True):
        if wanted == 0:
            continue
        if wanted < PARTS:
            fitting = [index for index in range(len(used)) if used[index] + wanted <= PARTS]
            chosen = [max(fitting, key=lambda index: (used[index], -index))] if fitting else []
        else:
            chosen = [index for index in range(len(used)) if used[index] == 0][: wanted // PARTS]
        if len(chosen) < max(1, wanted // PARTS):
            return None
        for index in chosen:
            shares.append(_Share(index, min(wanted, PARTS)))
            used[index] += min(wanted, PARTS)
    return shares


def _strict(bundles: Sequence[Bundle]) -> dict[str, float]:
    """What is given out and is no GPU."""
    whole = together(bundles)
    return {r: a for r, a in whole.items() if r not in ("CPU", "GPU") and not r.startswith(ACCELERATOR)}


def _wrong_amount(bundle: Bundle) -> str | None:
    if any(amount < 0 for amount in bundle.amounts.values()):
        return f"{bundle.name} asks for a negative amount of a resource"
    gpus = bundle.amounts.get("GPU", 0.0)
    option = "num_gpus=" if bundle.name == "it" else f"{bundle.name}: GPU="
    if parts(gpus) > PARTS and parts(gpus) % PARTS:
        return f"{option}{shown(gpus)} is neither a fraction of one GPU (0 to 1) nor a whole number of GPUs"
    if gpus > 0 and parts(gpus) == 0:
        return f"{option}{shown(gpus)} is less than the smallest share, {1 / PARTS:g} of a GPU"
    return None


def _subject(request: ResourceRequest, wanted: Sequence[Bundle]) -> str:
    if len(wanted) == 1:
        return "it needs"
    if request.gang is not None and len(wanted) > len(request.bundles):
        return f"the {request.gang.size} replicas of its gang need"
    return f"its {len(wanted)} bundles need"


def _gpus_in_words(bundles: Sequence[Bundle]) -> str:
    amounts = [amount for bundle in bundles if (amount := bundle.amounts.get("GPU"))]
    if all(amount % 1 == 0 for amount in amounts):
        whole = sum(amounts)
        return "a whole GPU" if whole == 1 else f"{shown(whole)} whole GPUs"
    if len(amounts) == 1:
        return f"{shown(amounts[0])} of a GPU"
    return f"{', '.join(shown(amount) for amount in amounts)} of a GPU"
