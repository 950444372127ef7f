"""How the number of replicas follows the load."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from headrace.config.autoscaling_policy import DEFAULT_POLICY
from headrace.config.autoscaling_policy import AutoscalingPolicy as AutoscalingPolicy
from headrace.config.metric_target import MetricTarget
from headrace.config.model import ConfigModel, Name, NonNegativeInt, NonNegativeNumber
from headrace.config.model import PositiveInt as Positive
from headrace.config.model import PositiveNumber as PositiveSeconds
from headrace.config.problems import mistake, wrong_choice
from headrace.config.schedule import ScheduleEntry

Factor = PositiveSeconds

DEFAULT_TARGET_ONGOING_REQUESTS = 2.0


class AggregationFunction(StrEnum):
    """How a window of measurements becomes one number."""

    MEAN = "mean"
    MAX = "max"
    MIN = "min"


class AutoscalingConfig(ConfigModel):
    """Bounds and pace of autoscaling. Times are seconds.

    Attributes:
        min_replicas: never fewer; 0 lets the deployment go to sleep.
        initial_replicas: how many at first; None for `min_replicas`.
        max_replicas: never more.
        target_ongoing_requests: requests per replica, running and queued, that scaling aims at. 2 where no other
            target is set; None where one is.
        target_latency_p99_s: instead of it, how long 99 % of the requests may take from when a caller sends them
            until they are answered in full, seconds.
        target_metrics: by metric that `record_autoscaling_stats` tells: the value at each replica to aim at, as a
            number or with its kind. Of several targets, the one that needs the most replicas wins.
        schedule: known peaks; the highest minimum of the entries that hold at a moment is never gone below, up to
            `max_replicas`.
        metrics_interval_s: how often load is measured.
        look_back_period_s: over which time it is aggregated.
        upscaling_factor, downscaling_factor: how much of the step that the load asks for is taken; None for
            `smoothing_factor`. `upscale_smoothing_factor` and `downscale_smoothing_factor` are their old names.
        upscale_delay_s, downscale_delay_s: for how long the load must ask for a step before it is taken.
        downscale_to_zero_delay_s: the same for the last replica; None for `downscale_delay_s`.
        aggregation_function: `mean`, `max` or `min` over the period.
        policy: who decides.
    """

    title: ClassVar[str] = "wrong autoscaling_config"
    refused: ClassVar[Mapping[str, str]] = {
        "target_num_ongoing_requests_per_replica": "no such option any more; it is now called 'target_ongoing_requests'"
    }

    min_replicas: NonNegativeInt = 1
    initial_replicas: NonNegativeInt | None = None
    max_replicas: Positive = 1
    target_ongoing_requests: Factor | None = DEFAULT_TARGET_ONGOING_REQUESTS
    target_latency_p99_s: PositiveSeconds | None = None
    target_metrics: dict[Name, MetricTarget] = Field(default_factory=dict)
    schedule: list[ScheduleEntry] = Field(default_factory=list)
    metrics_interval_s: PositiveSeconds = 10.0
    look_back_period_s: PositiveSeconds = 30.0
    smoothing_factor: Factor = 1.0
    upscale_smoothing_factor: Factor | None = None
    downscale_smoothing_factor: Factor | None = None
    upscaling_factor: Factor | None = None
    downscaling_factor: Factor | None = None
    downscale_delay_s: NonNegativeNumber = 600.0
    downscale_to_zero_delay_s: NonNegativeNumber | None = None
    upscale_delay_s: NonNegativeNumber = 30.0
    aggregation_function: AggregationFunction = AggregationFunction.MEAN
    policy: AutoscalingPolicy = Field(default_factory=AutoscalingPolicy)

    @model_validator(mode="before")
    @classmethod
    def _some_target(cls, given: Any) -> Any:
        """Requests per replica are the target where there is no other: a default that nobody chose must not compete
        with what somebody did."""
        if not isinstance(given, Mapping):
            return given
        given = dict(given)
        if given.get("target_ongoing_requests") is None:
            given.pop("target_ongoing_requests", None)
            if given.get("target_latency_p99_s") is not None or given.get("target_metrics"):
                given["target_ongoing_requests"] = None
        return given

    @field_validator("aggregation_function", mode="before")
    @classmethod
    def _known_function(cls, function: Any) -> Any:
        choices = [choice.value for choice in AggregationFunction]
        if not isinstance(function, str) or function.lower() not in choices:
            raise ValueError(wrong_choice(function, choices))
        return function.lower()

    @model_validator(mode="after")
    def _bounds_in_order(self) -> AutoscalingConfig:
        if self.max_replicas < self.min_replicas:
            wrong = "max_replicas" if "max_replicas" in self.model_fields_set else "min_replicas"
            raise mistake(
                f"max_replicas ({self.max_replicas}) must be at least min_replicas ({self.min_replicas})", wrong
            )
        if self.initial_replicas is not None and not self.min_replicas <= self.initial_replicas <= self.max_replicas:
            raise mistake(
                f"must be between min_replicas ({self.min_replicas}) and max_replicas ({self.max_replicas}), "
                f"not {self.initial_replicas}",
                "initial_replicas",
            )
        return self

    @model_validator(mode="after")
    def _targets_agree(self) -> AutoscalingConfig:
        if self.target_latency_p99_s is not None and self.target_ongoing_requests is not None:
            raise mistake(
                "target_latency_p99_s and target_ongoing_requests exclude each other: the latency says how many "
                "requests a replica may have; remove one of them",
                "target_latency_p99_s",
            )
        if self.policy.policy_function != DEFAULT_POLICY:
            for name in ("target_latency_p99_s", "target_metrics"):
                if getattr(self, name):
                    raise mistake("excludes a policy of your own, which decides instead; remove one of them", name)
        for index, entry in enumerate(self.schedule):
            if entry.min_replicas > self.max_replicas:
                raise mistake(
                    f"must be at most max_replicas ({self.max_replicas}), not {entry.min_replicas}",
                    *("schedule", index, "min_replicas"),
                )
        return self

    @property
    def effective_upscaling_factor(self) -> float:
        """`upscaling_factor`, or what stands in for it."""
        return self.upscaling_factor or self.upscale_smoothing_factor or self.smoothing_factor

    @property
    def effective_downscaling_factor(self) -> float:
        """`downscaling_factor`, or what stands in for it."""
        return self.downscaling_factor or self.downscale_smoothing_factor or self.smoothing_factor

    # What policies written for Ray Serve call.

    def get_target_ongoing_requests(self) -> float:
        return self.target_ongoing_requests or DEFAULT_TARGET_ONGOING_REQUESTS

    def get_upscaling_factor(self) -> float:
        return self.effective_upscaling_factor

    def get_downscaling_factor(self) -> float:
        return self.effective_downscaling_factor


AUTO = {"min_replicas": 1, "max_replicas": 100}
"""What `num_replicas="auto"` stands for; an `autoscaling_config` beside it is laid over this."""
