"""Every option of a deployment: its default, what it may be, and what it may be combined with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from headrace.config.autoscaling import AUTO, AutoscalingConfig
from headrace.config.availability import refuse_unavailable
from headrace.config.logging_config import LoggingConfig
from headrace.config.model import (
    ConfigModel,
    JsonValue,
    NonNegativeNumber,
    Number,
    PositiveInt,
    PositiveNumber,
)
from headrace.config.placement import Bundle, DeploymentActorConfig, GangSchedulingConfig, Strategy, check_bundles
from headrace.config.problems import mistake, shown
from headrace.config.ray_actor_options import RayActorOptions
from headrace.config.request_router import RequestRouterConfig

RESTARTING_OPTIONS = frozenset(
    {
        "deployment_actors",
        "gang_scheduling_config",
        "logging_config",
        "max_concurrent_sync",
        "max_replicas_per_node",
        "placement_group_bundle_label_selector",
        "placement_group_bundles",
        "placement_group_strategy",
        "ray_actor_options",
    }
)
"""Options that only a new process can take on. All others reach running replicas, routers or the controller."""


class BackpressureConfig(ConfigModel):
    """The HTTP answer to a request that `max_queued_requests` refuses.

    Attributes:
        status_code: 503 or 429.
        retry_after_s: seconds in the `Retry-After` header. Ray Serve sends none by default; clients fare better with.
    """

    title: ClassVar[str] = "wrong backpressure_config"

    status_code: Literal[503, 429] = 503
    retry_after_s: NonNegativeNumber = 1.0


def _whole_number_or_auto(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(f"must be a whole number or 'auto', not {shown(value)}")
    return value


def _auto(gang: Any) -> dict[str, int]:
    """What `num_replicas="auto"` stands for: with gangs, whole ones."""
    size = gang.get("gang_size") if isinstance(gang, Mapping) else getattr(gang, "gang_size", None)
    if not isinstance(size, int) or size < 1:  # which is told of where it is read
        return AUTO
    return {"min_replicas": size, "max_replicas": max(1, AUTO["max_replicas"] // size) * size}


class DeploymentOptions(ConfigModel):
    """The options of `@serve.deployment`. Times are seconds. `None` stands for the default.

    Attributes:
        name: None for the name of the class or function.
        version: taken only to be refused: versions follow from code and options.
        num_replicas: how many replicas; None where `autoscaling_config` decides. `"auto"` becomes an
            `autoscaling_config` of 1 to 100 replicas.
        ray_actor_options: resources and environment of each replica.
        placement_group_bundles, placement_group_strategy, placement_group_bundle_label_selector: resources reserved
            together for each replica.
        max_replicas_per_node: at most so many replicas on one machine, 1 to 100.
        user_config: given to the deployment's `reconfigure`, without a restart; must be JSON-serializable.
        max_ongoing_requests: requests that one replica works on at a time.
        max_concurrent_sync: of these, how many may run synchronous (`def`) methods at a time, each on a thread of its
            own. Models are rarely thread-safe, hence 1.
        max_queued_requests: requests that may wait at each caller before more are refused; -1 for no limit.
        backpressure_config: how they are refused.
        autoscaling_config: how the number of replicas follows the load; None for a fixed number.
        graceful_shutdown_wait_loop_s: how often a replica that shuts down looks whether its work is done.
        graceful_shutdown_timeout_s: how long it may take before it is killed.
        health_check_period_s: how often each replica's health is checked.
        health_check_timeout_s: how long a check may take before it counts as failed.
        logging_config: how replicas log; None for the instance's.
        request_router_config: how callers choose a replica.
        max_constructor_retry_count: how often a constructor that raises is tried again.
        gang_scheduling_config: replicas that start and end together.
        deployment_actors: actors that all replicas share.
        rolling_update_percentage: fraction of the replicas that an update replaces at a time, above 0 up to 1.
        max_surge_percent: replicas beyond the target that an update may run, percent of the target, 0 to 100.
    """

    refused: ClassVar[Mapping[str, str]] = {
        "max_concurrent_queries": "no such option any more; it is now called 'max_ongoing_requests'",
        "route_prefix": "no such option any more; it belongs to the application: run(app, route_prefix=...)",
    }

    name: str | None = None
    version: None = None
    num_replicas: Annotated[PositiveInt | None, BeforeValidator(_whole_number_or_auto)] = 1
    ray_actor_options: RayActorOptions = Field(default_factory=RayActorOptions)
    placement_group_bundles: list[Bundle] | None = None
    placement_group_strategy: Strategy | None = None
    placement_group_bundle_label_selector: list[dict[str, str]] | None = None
    max_replicas_per_node: Annotated[int, Field(strict=True, ge=1, le=100)] | None = None
    user_config: JsonValue = None
    max_ongoing_requests: PositiveInt = 5
    max_concurrent_sync: PositiveInt = 1
    max_queued_requests: Annotated[int, Field(strict=True)] = -1
    backpressure_config: BackpressureConfig = Field(default_factory=BackpressureConfig)
    autoscaling_config: AutoscalingConfig | None = None
    graceful_shutdown_wait_loop_s: NonNegativeNumber = 2.0
    graceful_shutdown_timeout_s: NonNegativeNumber = 20.0
    health_check_period_s: PositiveNumber = 10.0
    health_check_timeout_s: PositiveNumber = 30.0
    logging_config: LoggingConfig | None = None
    request_router_config: RequestRouterConfig = Field(default_factory=RequestRouterConfig)
    max_constructor_retry_count: PositiveInt = 20
    gang_scheduling_config: GangSchedulingConfig | None = None
    deployment_actors: list[DeploymentActorConfig] | None = None
    rolling_update_percentage: Annotated[Number, Field(gt=0, le=1)] = 0.2
    max_surge_percent: Annotated[int, Field(strict=True, ge=0, le=100)] = 0

    @classmethod
    def from_user(cls, /, **given: Any) -> Self:
        """Options as a user wrote them, as keyword arguments.

        Raises:
            ConfigError: one is unknown, wrong, or not available here; every mistake is named.
        """
        options = cls(**given)
        refuse_unavailable(options)
        return options

    def updated(self, /, **given: Any) -> Self:
        """A copy with these options on top, as `Deployment.options(...)` makes one. What is `None` goes back to its
        default.

        Raises:
            ConfigError: as `from_user`.
        """
        kept = {name: getattr(self, name) for name in self.model_fields_set}
        if given.get("num_replicas") is not None:
            kept.pop("autoscaling_config", None)
        if given.get("autoscaling_config") is not None:
            kept.pop("num_replicas", None)
        kept = {name: value for name, value in kept.items() if name not in given}
        return type(self).from_user(**kept, **given)

    @property
    def initial_num_replicas(self) -> int:
        """How many replicas to start with, whoever decides later."""
        if self.num_replicas is not None:
            return self.num_replicas
        scaling = self.autoscaling_config or AutoscalingConfig()
        return scaling.min_replicas if scaling.initial_replicas is None else scaling.initial_replicas

    @classmethod
    def _title(cls, given: Mapping[str, Any]) -> str:
        name = given.get("name")
        return f"deployment '{name}'" if isinstance(name, str) and name else "deployment options"

    @model_validator(mode="before")
    @classmethod
    def _either_a_number_or_autoscaling(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        data = dict(data)
        replicas, scaling = data.get("num_replicas"), data.get("autoscaling_config")
        if replicas == "auto":
            if isinstance(scaling, AutoscalingConfig):
                scaling = scaling.model_dump(exclude_unset=True)
            data["num_replicas"] = None
            if scaling is None or isinstance(scaling, Mapping):
                data["autoscaling_config"] = {**_auto(data.get("gang_scheduling_config")), **(scaling or {})}
        elif replicas is None and scaling is None:
            data.pop("num_replicas", None)
        elif scaling is not None and replicas is not None:
            raise mistake(
                f"num_replicas={shown(replicas)} and autoscaling_config exclude each other; remove one of them, "
                "or set num_replicas to 'auto'",
                "num_replicas",
            )
        elif scaling is not None:
            data["num_replicas"] = None
        return data

    @field_validator("name")
    @classmethod
    def _name_fit_for_ids(cls, name: str | None) -> str | None:
        if name is not None and (not name or "#" in name):
            raise ValueError(f"must not be empty and must not contain '#', not {shown(name)}")
        return name

    @field_validator("version", mode="before")
    @classmethod
    def _versions_are_ours(cls, version: Any) -> None:
        if version is not None:
            raise ValueError("is not taken: versions follow from the code and its options; remove it")

    @field_validator("max_queued_requests")
    @classmethod
    def _limit_or_none(cls, limit: int) -> int:
        if limit < 1 and limit != -1:
            raise ValueError(f"must be at least 1, or -1 for no limit, not {limit}")
        return limit

    @field_validator("placement_group_bundles")
    @classmethod
    def _bundles_that_ask_for_something(cls, bundles: list[Bundle] | None) -> list[Bundle] | None:
        return check_bundles(bundles) if bundles is not None else None

    @field_validator("deployment_actors")
    @classmethod
    def _actors_with_names_of_their_own(
        cls, actors: list[DeploymentActorConfig] | None
    ) -> list[DeploymentActorConfig] | None:
        names = [actor.name for actor in actors or []]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two actors have the name {shown(twice)}; each needs one of its own")
        return actors

    @model_validator(mode="after")
    def _placement_is_possible(self) -> Self:
        bundles, strategy = self.placement_group_bundles, self.placement_group_strategy
        selectors = self.placement_group_bundle_label_selector
        # A replica without bundles is on one machine whatever happens, so that packing it is no contradiction.
        if bundles is None and strategy in ("SPREAD", "STRICT_SPREAD"):
            raise mistake(f"'{strategy}' needs placement_group_bundles to spread", "placement_group_strategy")
        if bundles is None and selectors is not None:
            raise mistake("needs placement_group_bundles", "placement_group_bundle_label_selector")
        if bundles is not None and selectors is not None and len(selectors) not in (1, len(bundles)):
            raise mistake(
                f"must have one entry for all bundles or one for each ({len(bundles)}), not {len(selectors)}",
                "placement_group_bundle_label_selector",
            )
        if bundles is not None:
            self._replica_fits_into(bundles[0])
        if bundles is not None and self.max_replicas_per_node is not None:
            raise mistake("excludes placement_group_bundles; remove one of them", "max_replicas_per_node")
        return self

    @model_validator(mode="after")
    def _gangs_come_out_even(self) -> Self:
        gang = self.gang_scheduling_config
        if gang is None:
            return self
        if self.max_replicas_per_node is not None:
            raise mistake("excludes gang_scheduling_config; remove one of them", "max_replicas_per_node")
        if self.placement_group_strategy is not None:
            raise mistake(
                "excludes gang_scheduling_config; use gang_scheduling_config.gang_placement_strategy",
                "placement_group_strategy",
            )
        counts = {"num_replicas": self.num_replicas}
        if self.autoscaling_config is not None:
            counts = {
                f"autoscaling_config.{name}": getattr(self.autoscaling_config, name)
                for name in ("min_replicas", "max_replicas", "initial_replicas")
                if name in self.autoscaling_config.model_fields_set
            }
        for name, count in counts.items():
            if count is not None and count % gang.gang_size:
                raise ValueError(f"{name} ({count}) must be a multiple of gang_size ({gang.gang_size})")
        return self

    def _replica_fits_into(self, first_bundle: Bundle) -> None:
        wanted = {
            "CPU": self.ray_actor_options.num_cpus,
            "GPU": self.ray_actor_options.num_gpus,
            **self.ray_actor_options.resources,
        }
        for resource, amount in wanted.items():
            there = first_bundle.get(resource, 0)
            if there < amount:
                raise mistake(
                    f"the replica runs in the first bundle, which has {there:g} {resource}, "
                    f"but ray_actor_options asks for {amount:g}",
                    "placement_group_bundles",
                )
