"""What a process asks of machines, what a machine has, and what is answered."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Gang(msgspec.Struct, kw_only=True, frozen=True):
    """Processes that are placed together or not at all.

    Attributes:
        id: unique among the gangs of the instance, over time too.
        size: how many processes it has.
        index: which of them this is, from 0.
        strategy: "PACK", "SPREAD", "STRICT_PACK" or "STRICT_SPREAD": where they run, as seen from each other.
    """

    id: str
    size: int
    index: int
    strategy: str = "PACK"


class ResourceRequest(msgspec.Struct, kw_only=True, frozen=True):
    """What one process asks for. Every default asks for nothing.

    Attributes:
        num_cpus: cores; a hint on one machine, never a reason not to start.
        num_gpus: a fraction of one GPU (0 to 1), or a whole number of GPUs.
        memory: bytes to reserve; None or 0 for no reservation. It is bookkeeping, the process is not held to it.
        resources: amounts of custom resources by name.
        accelerator_type: kind of accelerator that its machine must have, such as "H100".
        label_selector: labels that its machine must have: label to value, "!value", "in(a,b)" or "!in(a,b)".
        fallback_strategy: what to try in turn where no machine has these: `{"label_selector": {...}}` each.
        runtime_env: the environment of its process, as `RuntimeEnv` has it. `env_vars` and `working_dir` are in
            `ProcessSpec` too.
        bundles: amounts of resources that are set aside together, "CPU" and "GPU" among them; the process itself runs
            in the first one, and what it starts in the others.
        bundle_label_selectors: labels for each bundle, or one set for all of them.
        strategy: where the bundles lie as seen from each other: "PACK", "SPREAD", "STRICT_PACK" or "STRICT_SPREAD".
        max_per_node: how many processes of `group` one machine may run.
        group: whose processes those are: "<app>#<deployment>".
        gang: the processes that this one is placed together with.
    """

    num_cpus: float = 0.0
    num_gpus: float = 0.0
    memory: int | None = None
    resources: dict[str, float] = {}
    accelerator_type: str | None = None
    label_selector: dict[str, str] = {}
    fallback_strategy: list[dict[str, Any]] = []
    runtime_env: dict[str, Any] = {}
    bundles: list[dict[str, float]] = []
    bundle_label_selectors: list[dict[str, str]] = []
    strategy: str | None = None
    max_per_node: int | None = None
    group: str = ""
    gang: Gang | None = None


class Machine(msgspec.Struct, kw_only=True, frozen=True):
    """What there is.

    Attributes:
        num_cpus: cores that this user may use.
        gpus: what each GPU is called in `CUDA_VISIBLE_DEVICES`: an index of the driver's, or a UUID.
        memory: bytes.
        resources: amounts of custom resources by name.
        accelerator_type: kind of its GPUs, such as "H100"; None if it has none or it is not known.
        labels: what a label selector goes by.
    """

    num_cpus: float
    gpus: list[str] = []
    memory: int = 0
    resources: dict[str, float] = {}
    accelerator_type: str | None = None
    labels: dict[str, str] = {}


class Allocation(msgspec.Struct, kw_only=True, frozen=True):
    """What one process got.

    Attributes:
        request: what it had asked for.
        gpu_indices: places in `Machine.gpus`.
        gpu_parts: how much of each it has, in ten-thousandths.
        env: what to set in the process. `CUDA_VISIBLE_DEVICES` is set for a process that has GPUs, and is left as it
            is for one that has none, as Ray does.
        warning: for a person to read, once per instance: more CPUs are asked for than there are.
    """

    request: ResourceRequest
    gpu_indices: list[int] = []
    gpu_parts: list[int] = []
    env: dict[str, str] = {}
    warning: str | None = None


class Refusal(msgspec.Struct, kw_only=True, frozen=True):
    """Why there is nothing for a process. "never": it cannot fit even when all else has ended. "not_now": it could."""

    kind: Literal["never", "not_now"]
    reason: str
