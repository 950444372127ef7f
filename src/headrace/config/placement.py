"""Options on which machine something runs, together with what: placement groups, gangs, deployment-scoped actors."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from headrace.config.model import ConfigModel, ImportPath, Name, NonNegativeNumber, PositiveInt
from headrace.config.problems import shown


def _something_in_it(bundle: dict[str, float]) -> dict[str, float]:
    if not any(bundle.values()):
        raise ValueError(f"a bundle must ask for something, such as {{'CPU': 1}}, not {shown(bundle)}")
    return bundle


Bundle = dict[Name, NonNegativeNumber]
Strategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


def check_bundles(bundles: list[dict[str, float]]) -> list[dict[str, float]]:
    """Raises ValueError where a list of bundles cannot be meant."""
    if not bundles:
        raise ValueError("must have at least one bundle, such as [{'CPU': 1}]")
    return [_something_in_it(bundle) for bundle in bundles]


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


class GangPlacementStrategy(StrEnum):
    """`PACK`: on as few machines as possible. `SPREAD`: on as many as possible."""

    PACK = "PACK"
    SPREAD = "SPREAD"


class GangRuntimeFailurePolicy(StrEnum):
    """What happens to the other replicas of a gang when one fails."""

    RESTART_GANG = "RESTART_GANG"
    RESTART_REPLICA = "RESTART_REPLICA"


class GangSchedulingConfig(ConfigModel):
    """Replicas that start and end together.

    Attributes:
        gang_size: replicas in one gang; `num_replicas` is a multiple of it.
        gang_placement_strategy: where a gang's replicas run.
        runtime_failure_policy: what happens when one of them fails. Only `RESTART_GANG` exists.
    """

    title: ClassVar[str] = "wrong gang_scheduling_config"

    gang_size: PositiveInt
    gang_placement_strategy: Annotated[GangPlacementStrategy, BeforeValidator(_upper)] = GangPlacementStrategy.PACK
    runtime_failure_policy: Annotated[GangRuntimeFailurePolicy, BeforeValidator(_upper)] = (
        GangRuntimeFailurePolicy.RESTART_GANG
    )

    @field_validator("runtime_failure_policy")
    @classmethod
    def _only_whole_gangs(cls, policy: GangRuntimeFailurePolicy) -> GangRuntimeFailurePolicy:
        if policy is GangRuntimeFailurePolicy.RESTART_REPLICA:
            raise ValueError("'RESTART_REPLICA' is not available (nor is it in Ray Serve); use 'RESTART_GANG'")
        return policy


class DeploymentActorConfig(ConfigModel):
    """An actor that all replicas of a deployment share.

    Attributes:
        name: unique within the deployment.
        actor_class: class, or its import path.
        init_args, init_kwargs: arguments of its constructor.
        actor_options: resources and runtime environment of its process.
    """

    title: ClassVar[str] = "wrong deployment_actors"

    name: Name
    actor_class: ImportPath
    init_args: tuple[Any, ...] = ()
    init_kwargs: dict[str, Any] = Field(default_factory=dict)
    actor_options: dict[str, Any] = Field(default_factory=dict)
