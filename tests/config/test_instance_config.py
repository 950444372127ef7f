"""HTTP, REST and logging options, and what an instance is started with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware

from headrace.config import HTTPOptions, InstanceConfig, LoggingConfig, ProxyLocation, check_route_prefix

from .wrong import message

http_options = st.fixed_dictionaries(
    {},
    optional={
        "host": st.sampled_from(["127.0.0.1", "0.0.0.0", "::1"]),
        "port": st.integers(0, 65535).filter(lambda port: port != 8265),
        "root_path": st.sampled_from(["", "/a", "/a/b"]),
        "request_timeout_s": st.none() | st.floats(0.1, 1e6),
        "keep_alive_timeout_s": st.floats(0, 1e6),
        "max_body_bytes": st.none() | st.integers(0, 2**40),
        "num_proxies": st.integers(1, 64),
        "middlewares": st.lists(
            st.sampled_from(["starlette.middleware.gzip:GZipMiddleware", "os.path.join"]), max_size=2
        ),
    },
)


@settings(deadline=None)
@given(
    http_options,
    st.none() | st.sampled_from(list(ProxyLocation)),
    st.fixed_dictionaries({"num_cpus": st.none() | st.floats(0, 64), "resources": st.just({"disk": 2.0})}),
)
def test_an_instance_config_survives_json(
    http: dict[str, Any], location: ProxyLocation | None, resources: dict[str, Any]
) -> None:
    made = InstanceConfig.from_user(http_options=http, proxy_location=location, **resources)
    assert InstanceConfig(**json.loads(json.dumps(made.model_dump(mode="json")))) == made


def test_everything_listens_on_loopback_by_default() -> None:
    config = InstanceConfig()
    assert config.http is not None
    assert (config.http.host, config.http.port) == ("127.0.0.1", 8000)
    assert (config.rest.host, config.rest.port) == ("127.0.0.1", 8265)


@pytest.mark.parametrize(
    "given_options",
    [
        {"proxy_location": "Disabled"},
        {"proxy_location": "NoServer"},
        {"http_options": {"location": "Disabled"}},
        {"http_options": {"host": None}},
    ],
)
def test_http_can_be_left_out(given_options: dict[str, Any]) -> None:
    assert InstanceConfig.from_user(**given_options).http is None


@pytest.mark.parametrize(
    ("http", "said"),
    [
        ({"prt": 8000}, "prt: no such option; did you mean 'port'?"),
        ({"port": 70000}, "port: must be at most 65535, not 70000"),
        ({"port": "8000"}, "port: must be a whole number, not '8000'"),
        ({"root_path": "api/"}, "root_path: must start with '/' and not end with it"),
        ({"request_timeout_s": 0}, "request_timeout_s: must be greater than 0, not 0"),
        ({"num_proxies": 0}, "num_proxies: must be at least 1, not 0"),
        ({"ssl_keyfile": "/nowhere"}, "HTTPS needs ssl_keyfile and ssl_certfile; ssl_certfile is missing"),
        ({"ssl_keyfile": "/nowhere", "ssl_certfile": __file__}, "ssl_keyfile: there is no file '/nowhere'"),
        ({"num_cpus": 2}, "num_cpus: proxies reserve no CPUs"),
        ({"location": "HeadOnl"}, "did you mean 'HeadOnly'?"),
        ({"middlewares": [3]}, "middlewares[0]: must be a middleware class"),
        ({"port": 8265}, "HTTP and REST cannot both listen on 127.0.0.1:8265"),
    ],
)
def test_mistakes_in_http_options_are_told(http: dict[str, Any], said: str) -> None:
    assert said in message(InstanceConfig.from_user, http_options=http)


def test_a_password_is_never_shown() -> None:
    assert "hunter2" not in message(HTTPOptions, ssl_keyfile_password=["hunter2"])


def test_starlette_middlewares_travel_as_import_paths() -> None:
    options = HTTPOptions.from_user({"middlewares": [Middleware(GZipMiddleware, minimum_size=10), GZipMiddleware]})
    first, second = options.middlewares
    assert first.cls == second.cls == "starlette.middleware.gzip:GZipMiddleware"
    assert (first.kwargs, second.kwargs) == ({"minimum_size": 10}, {})


def test_files_that_exist_are_taken(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    key.touch()
    certificate.touch()
    assert HTTPOptions.from_user({"ssl_keyfile": str(key), "ssl_certfile": str(certificate)}).ssl_keyfile == str(key)


def test_log_levels_are_known_by_name_and_number() -> None:
    assert LoggingConfig(log_level="debug").log_level == "DEBUG"
    assert LoggingConfig(log_level=30).log_level == "WARNING"  # type: ignore[arg-type]
    assert "must be 'DEBUG', " in message(LoggingConfig, log_level=31)


def test_only_attributes_of_log_records_are_added_to_lines() -> None:
    assert LoggingConfig(additional_log_standard_attrs=["name", "name"]).additional_log_standard_attrs == ["name"]
    assert "did you mean 'funcName'?" in message(LoggingConfig, additional_log_standard_attrs=["funcname"])


@pytest.mark.parametrize("prefix", [None, "/", "/a", "/a/b-c"])
def test_a_route_prefix_that_can_be_one(prefix: str | None) -> None:
    assert check_route_prefix(prefix) == prefix


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("a", "route_prefix: must start with '/' and not end with it: '/a', not 'a'"),
        ("/a/", "'/a', not '/a/'"),
        ("", "'/', not ''"),
        ("/{user}", "must not contain '{'"),
    ],
)
def test_a_route_prefix_that_cannot_be_one(prefix: str, said: str) -> None:
    assert said in message(check_route_prefix, prefix)
