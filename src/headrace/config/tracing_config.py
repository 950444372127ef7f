"""Whether requests are traced with OpenTelemetry, which of them, and where traces go."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from headrace.config.model import ConfigModel, Flag, Number
from headrace.config.problems import Problem, config_error, shown, wrong_choice

_DESTINATIONS = ("exporter", "endpoint", "exporter_import_path")

_EXPORTER_VARIABLE = "OTEL_TRACES_EXPORTER"
_RAYS_EXPORTER_VARIABLE = "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH"
_RAYS_RATIO_VARIABLE = "RAY_SERVE_TRACING_SAMPLING_RATIO"


class TraceExporter(StrEnum):
    """Where traces go: over HTTP to an OpenTelemetry collector (or what speaks its protocol), or to standard output."""

    OTLP = "otlp"
    CONSOLE = "console"


class TracingConfig(ConfigModel):
    """Tracing with OpenTelemetry, of a whole instance. What is not said here, OpenTelemetry's own variables say.

    Attributes:
        enabled: whether there are traces. Where this is not said: whether anything else is said here, or
            `$OTEL_TRACES_EXPORTER` names an exporter.
        exporter: `otlp` or `console`.
        endpoint: base URL of the collector, such as "http://collector:4318", or the whole URL with `/v1/traces`. None
            for `$OTEL_EXPORTER_OTLP_ENDPOINT`, and without that `http://localhost:4318`.
        sampling_ratio: share of the traces that is recorded, from 0 to 1, where the caller has not decided already.
            None for what `$OTEL_TRACES_SAMPLER` says, and without that all.
        service_name: the traces' `service.name`; None for `$OTEL_SERVICE_NAME`, and without that "headrace".
        exporter_import_path: of a function without arguments that returns OpenTelemetry's `SpanProcessor`s, which take
            the spans in the exporter's place; "" for none. As in Ray Serve.
    """

    title: ClassVar[str] = "wrong tracing_config"

    enabled: Flag = False
    exporter: TraceExporter = TraceExporter.OTLP
    endpoint: str | None = None
    sampling_ratio: Annotated[Number, Field(ge=0, le=1)] | None = None
    service_name: Annotated[str, Field(min_length=1)] | None = None
    exporter_import_path: str = ""

    @model_validator(mode="before")
    @classmethod
    def _resolved(cls, data: Any) -> Any:
        """What the environment says goes where nothing is given: other processes may have another one."""
        if not isinstance(data, Mapping):
            return data
        given = {name: value for name, value in data.items() if value not in (None, "")}
        if given.get("enabled") is False:
            return data
        variables = {} if any(name in given for name in _DESTINATIONS) else _from_environment()
        enabled = bool(given or variables)
        ratio = os.environ.get(_RAYS_RATIO_VARIABLE)
        if enabled and ratio and "OTEL_TRACES_SAMPLER" not in os.environ:
            variables["sampling_ratio"] = _number(ratio)
        return {"enabled": enabled, **variables, **data}

    @field_validator("exporter", mode="before")
    @classmethod
    def _known_exporter(cls, exporter: Any) -> Any:
        choices = [choice.value for choice in TraceExporter]
        if not isinstance(exporter, str) or exporter.lower() not in choices:
            raise ValueError(wrong_choice(exporter, choices))
        return exporter.lower()

    @field_validator("endpoint")
    @classmethod
    def _is_url(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"must be a URL such as 'http://localhost:4318', not {shown(endpoint)}")
        if parts.username or parts.password:
            raise ValueError("must carry no password, since a config is shown; set OTEL_EXPORTER_OTLP_HEADERS instead")
        return endpoint

    @field_validator("exporter_import_path")
    @classmethod
    def _is_import_path(cls, path: str) -> str:
        if path and not all(path.replace(":", ".").rpartition(".")[::2]):
            raise ValueError(f"must be an import path such as 'module:function', not {shown(path)}")
        return path


def check_opentelemetry(config: TracingConfig) -> None:
    """Does nothing where all that the config needs is installed.

    Raises:
        ConfigError: OpenTelemetry is missing; says how to install it.
    """
    if config.enabled and not _installed(config):
        text = "tracing needs OpenTelemetry; install it with: pip install 'headrace[otel]'"
        raise config_error(TracingConfig.title, [Problem(("enabled",), text)])


def opentelemetry_modules(config: TracingConfig) -> tuple[str, ...]:
    """What each traced process imports of OpenTelemetry; nothing without tracing."""
    if not config.enabled:
        return ()
    sdk = ("opentelemetry.sdk.trace.export", "opentelemetry.propagate")
    if config.exporter is not TraceExporter.OTLP or config.exporter_import_path:
        return sdk
    return (*sdk, "opentelemetry.exporter.otlp.proto.http.trace_exporter")


def _installed(config: TracingConfig) -> bool:
    try:
        return all(importlib.util.find_spec(module) is not None for module in opentelemetry_modules(config))
    except ModuleNotFoundError:  # of a package above it
        return False


def _from_environment() -> dict[str, Any]:
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return {}
    path = os.environ.get(_RAYS_EXPORTER_VARIABLE)
    if path:
        return {"exporter_import_path": path}
    name = os.environ.get(_EXPORTER_VARIABLE, "").strip().lower()
    if name in ("", "none"):
        return {}
    if name not in (*TraceExporter, "otlp_proto_http"):
        raise ValueError(f"${_EXPORTER_VARIABLE} must be 'otlp', 'console' or 'none', not {shown(name)}")
    return {"exporter": name.removesuffix("_proto_http")}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"${_RAYS_RATIO_VARIABLE} must be a number from 0 to 1, not {shown(text)}") from None
