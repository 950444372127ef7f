"""Tracing options, and what of them the environment says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.config import InstanceConfig, ServeDeploySchema, TracingConfig
from headrace.config import tracing_config as module

from .wrong import message

VARIABLES = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_SDK_DISABLED",
    "OTEL_TRACES_SAMPLER",
    "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH",
    "RAY_SERVE_TRACING_SAMPLING_RATIO",
)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_tracing_is_off_until_somebody_says_something() -> None:
    assert not TracingConfig().enabled
    assert not InstanceConfig.from_user().tracing.enabled
    assert TracingConfig(enabled=True).enabled
    assert TracingConfig(endpoint="http://collector:4318").enabled
    assert TracingConfig(sampling_ratio=0.5).enabled
    assert not TracingConfig(enabled=False, endpoint="http://collector:4318").enabled


@pytest.mark.parametrize(
    ("variables", "enabled", "exporter"),
    [
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "otlp_proto_http"}, True, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "Console"}, True, "console"),
        ({"OTEL_TRACES_EXPORTER": "none"}, False, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, False, "otlp"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, False, "otlp"),
    ],
)
def test_the_environment_switches_it_on(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], enabled: bool, exporter: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = InstanceConfig.from_user().tracing
    assert (config.enabled, config.exporter) == (enabled, exporter)
    assert not TracingConfig(enabled=False).enabled


def test_variables_of_ray_serve_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH", "my.traces:processors")
    monkeypatch.setenv("RAY_SERVE_TRACING_SAMPLING_RATIO", "0.25")
    config = TracingConfig()
    assert config.enabled and (config.exporter_import_path, config.sampling_ratio) == ("my.traces:processors", 0.25)
    assert TracingConfig(sampling_ratio=1).sampling_ratio == 1
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    assert TracingConfig().sampling_ratio is None


def test_what_was_resolved_is_kept_where_the_environment_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    off = InstanceConfig.from_user().model_dump(mode="json")
    on = InstanceConfig.from_user(tracing_config={"exporter": "console"}).model_dump(mode="json")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    assert not InstanceConfig(**json.loads(json.dumps(off))).tracing.enabled
    assert InstanceConfig(**json.loads(json.dumps(on))).tracing.exporter == "console"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"sampling_ratio": 2}, "sampling_ratio"),
        ({"sampling_ratio": "all"}, "sampling_ratio"),
        ({"exporter": "jaeger"}, "'otlp' or 'console'"),
        ({"endpoint": "collector:4318"}, "must be a URL such as 'http://localhost:4318'"),
        ({"endpoint": "http://user:pass@collector:4318"}, "OTEL_EXPORTER_OTLP_HEADERS"),
        ({"exporter_import_path": "processors"}, "must be an import path"),
        ({"endpont": "http://collector:4318"}, "endpoint"),
        ({"enabled": "yes"}, "enabled"),
    ],
)
def test_a_mistake_is_named(given: dict[str, Any], text: str) -> None:
    assert text in message(lambda: TracingConfig(**given))


def test_a_password_is_not_repeated() -> None:
    assert "pass1" not in message(lambda: TracingConfig(endpoint="http://user:pass1@collector:4318"))


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "$OTEL_TRACES_EXPORTER must be 'otlp', 'console' or 'none'"),
        ("RAY_SERVE_TRACING_SAMPLING_RATIO", "some", "$RAY_SERVE_TRACING_SAMPLING_RATIO must be a number"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, text: str) -> None:
    monkeypatch.setenv(name, value)
    assert text in message(lambda: TracingConfig(sampling_ratio=None, enabled=True))


def test_without_opentelemetry_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "opentelemetry_modules", lambda config: ("opentelemetry_that_is_not_there.sdk",))
    text = message(lambda: InstanceConfig.from_user(tracing_config={"enabled": True}))
    assert "pip install 'headrace[otel]'" in text
    assert not InstanceConfig.from_user(tracing_config={"enabled": False}).tracing.enabled


def test_a_config_file_has_it() -> None:
    schema = ServeDeploySchema.from_user({"tracing_config": {"sampling_ratio": 0.1}, "applications": []})
    assert schema.tracing_config is not None and schema.tracing_config.enabled
    problem = message(lambda: ServeDeploySchema.from_user({"tracing_config": {"exporter": 1}, "applications": []}))
    assert "tracing_config.exporter" in problem
