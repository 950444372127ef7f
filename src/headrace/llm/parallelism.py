"""From the sizes of a model's parallelism to what one replica needs. Pure.

The workers of a replica (one per GPU: tensor x pipeline x data parallel size) each get a bundle of resources. Where
they may be on several machines, the bundles are those of a placement group, whose first one holds the replica's own
process too. Where all of them are started by one process on one machine, they are added up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.config.placement import Strategy
from headrace.exceptions import ConfigError
from headrace.llm.config.accelerators import Kind
from headrace.llm.config.placement import PlacementGroupConfig
from headrace.llm.engines import GpuUse

Bundle = dict[str, float]

TYPE_SHARE = 0.001
"""How much of the resource `accelerator_type:<type>` a bundle asks for: it only says which machines will do."""

_TYPE = "accelerator_type:"

_DEVICE: dict[Kind, str] = {"cpu": "CPU", "gpu": "GPU", "tpu": "TPU"}


@dataclass(frozen=True, slots=True)
class ParallelSizes:
    """
    Attributes:
        tensor: GPUs that share each layer.
        pipeline: groups of layers, each on GPUs of its own.
        data: copies of the model within one replica.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1

    @property
    def workers(self) -> int:
        """Processes that each hold a part of the model on a GPU."""
        return self.tensor * self.pipeline * self.data

    @classmethod
    def of(cls, engine_kwargs: Mapping[str, Any]) -> ParallelSizes:
        """The sizes in an engine's arguments, by vLLM's names.

        With `data_parallel_rank` the replica is one of the copies, and the others are replicas too. With
        `data_parallel_size_local` so many of the copies are in this replica.
        """
        data = engine_kwargs.get("data_parallel_size_local") or engine_kwargs.get("data_parallel_size") or 1
        if engine_kwargs.get("data_parallel_rank") is not None:
            data = 1
        tensor, pipeline = engine_kwargs.get("tensor_parallel_size"), engine_kwargs.get("pipeline_parallel_size")
        return cls(int(tensor or 1), int(pipeline or 1), int(data))


@dataclass(frozen=True, slots=True)
class MachineShare:
    """What a replica needs of the one machine that it runs on, as `ray_actor_options` names it.

    Attributes:
        num_cpus, num_gpus: cores and GPUs.
        memory: bytes; None for no reservation.
        resources: custom resources by name.
        accelerator_type: kind of GPU that the machine must have; None for any.
    """

    num_cpus: float
    num_gpus: float
    memory: int | None
    resources: dict[str, float]
    accelerator_type: str | None = None


@dataclass(frozen=True, slots=True)
class ReplicaPlacement:
    """The resources of one replica.

    Attributes:
        bundles: of each worker, in the order of their ranks.
        strategy: how far apart they may be.
    """

    bundles: tuple[Bundle, ...]
    strategy: Strategy

    def apart(self, replica: Bundle) -> dict[str, Any]:
        """The options of a deployment whose replicas' workers may be on several machines.

        Args:
            replica: what the replica's own process needs, such as `{"CPU": 1}`. It runs beside the first worker.

        Raises:
            ConfigError: workers would share a GPU.
        """
        self._check_gpus()
        first = {name: self.bundles[0].get(name, 0) + replica.get(name, 0) for name in {*self.bundles[0], *replica}}
        return {
            "placement_group_bundles": [first, *map(dict, self.bundles[1:])],
            "placement_group_strategy": self.strategy,
        }

    def in_one_process(self) -> MachineShare:
        """All bundles together: the replica's process starts the workers beside it.

        Raises:
            ConfigError: they have to be on different machines, or workers would share a GPU.
        """
        if self.strategy == "STRICT_SPREAD" and len(self.bundles) > 1:
            raise ConfigError(
                "placement_group_config: 'STRICT_SPREAD' puts each of a replica's "
                f"{len(self.bundles)} workers on a machine of its own, but here one process starts them beside it; "
                "use 'PACK'"
            )
        self._check_gpus()
        total: Bundle = {}
        for bundle in self.bundles:
            for name, amount in bundle.items():
                total[name] = total.get(name, 0) + amount
        memory = total.pop("memory", None)
        return MachineShare(
            num_cpus=total.pop("CPU", 0),
            num_gpus=total.pop("GPU", 0),
            memory=None if memory is None else int(memory),
            resources={name: amount for name, amount in total.items() if not name.startswith(_TYPE)},
            accelerator_type=next((name.removeprefix(_TYPE) for name in total if name.startswith(_TYPE)), None),
        )

    def _check_gpus(self) -> None:
        gpus = [bundle["GPU"] for bundle in self.bundles if bundle.get("GPU")]
        if len(gpus) > 1 and any(amount % 1 for amount in gpus):
            raise ConfigError(
                f"placement_group_config: {len(gpus)} workers with {', '.join(f'{amount:g}' for amount in gpus)} GPUs "
                "would share GPUs with each other; give each whole ones, or set the parallel sizes to 1"
            )


def place_replica(
    sizes: ParallelSizes,
    kind: Kind,
    accelerator_type: str | None = None,
    placement: PlacementGroupConfig | None = None,
) -> ReplicaPlacement:
    """What one replica of a model needs.

    Args:
        sizes: of its parallelism.
        kind: of hardware that the workers run on, where `placement` does not say.
        accelerator_type: that the machines must have; None for any.
        placement: bundles as the user wants them; None for one device per worker.
    """
    if placement is None:
        bundles: list[Bundle] = [{_DEVICE[kind]: 1} for _ in range(sizes.workers)]
        strategy: Strategy = "PACK"
    else:
        given = placement.bundles or [placement.bundle_per_worker or {}] * sizes.workers
        bundles = [dict(bundle) for bundle in given]
        strategy = placement.strategy
        # A placement of nothing but CPUs is one on CPUs, whatever the accelerator.
        if not any(bundle.get("GPU") or bundle.get("TPU") for bundle in bundles):
            accelerator_type = None
    if accelerator_type is not None and kind != "cpu":
        for bundle in bundles:
            bundle.setdefault(_TYPE + accelerator_type, TYPE_SHARE)
    return ReplicaPlacement(tuple(bundles), strategy)


def hardware_kind(
    gpu_use: GpuUse,
    machine_gpus: int,
    *,
    device: str | None = None,
    accelerator_kind: Kind | None = None,
    placement: PlacementGroupConfig | None = None,
) -> Kind:
    """What a model runs on.

    Args:
        gpu_use: what its engine does with GPUs.
        machine_gpus: how many GPUs the machine has.
        device: the engine's argument of that name: "cpu", "cuda", "cuda:0", …
        accelerator_kind: what `accelerator_config` or `accelerator_type` says.
        placement: bundles as the user wants them.
    """
    if gpu_use == "never":
        return "cpu"
    if placement is not None:
        bundles = placement.bundles or [placement.bundle_per_worker or {}]
        if any(bundle.get("TPU") for bundle in bundles):
            return "tpu"
        return "gpu" if any(bundle.get("GPU") for bundle in bundles) else "cpu"
    if accelerator_kind is not None:
        return accelerator_kind
    if device is not None and device != "auto":
        return "gpu" if device.startswith(("cuda", "gpu", "rocm", "xpu", "hip")) else "cpu"
    return "gpu" if gpu_use == "where there are some" and machine_gpus > 0 else "cpu"
