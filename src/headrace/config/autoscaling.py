"""How the number of replicas follows the load."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from headrace.config.autoscaling_policy import AutoscalingPolicy as AutoscalingPolicy
from headrace.config.model import ConfigModel, NonNegativeInt, NonNegativeNumber
from headrace.config.model import PositiveInt as Positive
from headrace.config.model import PositiveNumber as PositiveSeconds
from headrace.config.problems import mistake, wrong_choice

Factor = PositiveSeconds


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
        target_ongoing_requests: requests per replica, running and queued, that scaling aims at.
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
    target_ongoing_requests: Factor = 2.0
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
        return self.target_ongoing_requests

    def get_upscaling_factor(self) -> float:
        return self.effective_upscaling_factor

    def get_downscaling_factor(self) -> float:
        return self.effective_downscaling_factor


AUTO = {"min_replicas": 1, "max_replicas": 100, "target_ongoing_requests": 2.0}
"""What `num_replicas="auto"` stands for; an `autoscaling_config` beside it is laid over this."""
