"""What an instance is started with."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, field_validator

from headrace.config.http_options import HTTPOptions, ProxyLocation, RestOptions
from headrace.config.logging_config import LoggingConfig
from headrace.config.model import ConfigModel, NonNegativeInt, NonNegativeNumber
from headrace.config.problems import Problem, config_error
from headrace.config.ray_actor_options import Resources
from headrace.config.tracing_config import TracingConfig, check_opentelemetry

PREFIX_VARIABLE = "HEADRACE_METRICS_PREFIX"


class InstanceConfig(ConfigModel):
    """What a root process is started with.

    Attributes:
        http: where proxies listen; None for no proxies.
        proxy_location: on which machines of a cluster there are proxies.
        rest: where the REST API listens.
        logging: how the instance's own processes log, and deployments that say nothing else.
        tracing: whether and where requests are traced.
        metrics_prefix: goes before the names of metrics; `$HEADRACE_METRICS_PREFIX` where nothing is said, and "ray_"
            where that is not set: the names are Ray Serve's.
        num_cpus, num_gpus, memory: what there is to give to replicas; None for what the machine has. `memory` is bytes.
        resources: custom resources that replicas may ask for, by name.
    """

    title: ClassVar[str] = "wrong instance options"

    http: HTTPOptions | None = Field(default_factory=HTTPOptions)
    proxy_location: ProxyLocation = ProxyLocation.EveryNode
    rest: RestOptions = Field(default_factory=RestOptions)
    logging: LoggingConfig = Field(default_factory=LoggingConfig)
    tracing: TracingConfig = Field(default_factory=TracingConfig)
    metrics_prefix: str = Field(default_factory=lambda: os.environ.get(PREFIX_VARIABLE, "ray_"), validate_default=True)
    num_cpus: NonNegativeNumber | None = None
    num_gpus: NonNegativeInt | None = None
    memory: NonNegativeInt | None = None
    resources: Resources = Field(default_factory=dict)

    @field_validator("metrics_prefix")
    @classmethod
    def _begins_a_name(cls, prefix: str) -> str:
        if not re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]*)?", prefix):
            raise ValueError(
                f"must be of letters, digits, '_' and ':', without a digit first, or empty, not {prefix!r}"
            )
        return prefix

    @classmethod
    def from_user(
        cls,
        *,
        proxy_location: str | ProxyLocation | None = None,
        http_options: Mapping[str, Any] | HTTPOptions | None = None,
        rest_options: Mapping[str, Any] | RestOptions | None = None,
        logging_config: Mapping[str, Any] | LoggingConfig | None = None,
        tracing_config: Mapping[str, Any] | TracingConfig | None = None,
        metrics_prefix: str | None = None,
        **resources: Any,
    ) -> Self:
        """What `start` is called with; `resources` are `num_cpus`, `num_gpus`, `memory` and `resources`.

        Raises:
            ConfigError: something is wrong, or tracing needs what is not installed; every mistake is named.
        """
        http = HTTPOptions.from_user(http_options)
        rest = rest_options if isinstance(rest_options, RestOptions) else RestOptions(**(rest_options or {}))
        logs = logging_config if isinstance(logging_config, LoggingConfig) else LoggingConfig(**(logging_config or {}))
        try:
            location = ProxyLocation.EveryNode if proxy_location is None else ProxyLocation.parse(proxy_location)
        except ValueError as error:
            raise config_error(cls.title, [Problem(("proxy_location",), str(error))]) from None
        serves_http = http.enabled and location is not ProxyLocation.Disabled
        if serves_http and http.port == rest.port != 0 and http.host == rest.host:
            where = f"{rest.host}:{rest.port}"
            raise config_error(
                cls.title, [Problem((), f"HTTP and REST cannot both listen on {where}; change one port")]
            )
        traces = (
            tracing_config if isinstance(tracing_config, TracingConfig) else TracingConfig(**(tracing_config or {}))
        )
        check_opentelemetry(traces)
        if tracing_config is not None or traces.enabled:
            resources["tracing"] = traces
        if metrics_prefix is not None:
            resources["metrics_prefix"] = metrics_prefix
        if proxy_location is not None:
            resources["proxy_location"] = location
        return cls(http=http if serves_http else None, rest=rest, logging=logs, **resources)
