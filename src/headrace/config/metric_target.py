"""What autoscaling aims at in the numbers that replicas tell of themselves."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

from pydantic import field_validator, model_validator

from headrace.config.model import ConfigModel, PositiveNumber
from headrace.config.problems import wrong_choice


class MetricKind(StrEnum):
    """How a number of the replicas' answers to more replicas.

    `SHARED`: replicas share what it counts, so that it shrinks at each as others are added: the use of a KV cache,
    tokens per second, the length of a queue. Its sum over the replicas says how many are needed, as the targets of
    type AverageValue of Kubernetes' HorizontalPodAutoscaler.

    `LEVEL`: each replica shows how well it does, and more replicas make that better by an amount that is not known: the
    time to first token, a temperature. The number of replicas is multiplied by value over target, as that
    autoscaler's targets of type Value.
    """

    SHARED = "shared"
    LEVEL = "level"


class MetricTarget(ConfigModel):
    """
    Attributes:
        target: the value at each replica that scaling aims at.
        kind: `shared` or `level`; see `MetricKind`.
    """

    title: ClassVar[str] = "wrong target of a metric"

    target: PositiveNumber
    kind: MetricKind = MetricKind.SHARED

    @model_validator(mode="before")
    @classmethod
    def _number_alone(cls, given: Any) -> Any:
        is_number = isinstance(given, int | float) and not isinstance(given, bool)
        return {"target": given} if is_number else given

    @field_validator("kind", mode="before")
    @classmethod
    def _known_kind(cls, kind: Any) -> Any:
        choices = [choice.value for choice in MetricKind]
        if kind not in choices:
            raise ValueError(wrong_choice(kind, choices))
        return kind
