"""Where an instance listens: HTTP for applications, REST for its management."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from headrace.config.model import (
    ConfigModel,
    ImportPath,
    JsonObject,
    JsonValue,
    Name,
    NonNegativeInt,
    NonNegativeNumber,
    Port,
    PositiveInt,
    PositiveNumber,
    import_path_of,
)
from headrace.config.problems import Problem, config_error, shown, wrong_choice

_OTHER_NAMES = {"NoServer": "Disabled"}


class ProxyLocation(StrEnum):
    """Which machines run proxies. On one machine there is a difference only between `Disabled` and the others."""

    Disabled = "Disabled"
    HeadOnly = "HeadOnly"
    EveryNode = "EveryNode"

    @classmethod
    def parse(cls, location: Any) -> ProxyLocation:
        """`location` by any of its names.

        Raises:
            ValueError: there is no such location.
        """
        name = _OTHER_NAMES.get(location, location) if isinstance(location, str) else location
        if name not in [choice.value for choice in cls]:
            raise ValueError(wrong_choice(location, [choice.value for choice in cls]))
        return cls(name)


class MiddlewareConfig(ConfigModel):
    """One ASGI middleware around all applications.

    Attributes:
        cls: the class, or its import path; proxies import it.
        args, kwargs: arguments of its constructor after the app; must be JSON-serializable.
    """

    title: ClassVar[str] = "wrong middleware"

    cls: ImportPath
    args: list[JsonValue] = Field(default_factory=list)
    kwargs: JsonObject = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _class_alone_or_starlette_middleware(cls, data: Any) -> Any:
        if isinstance(data, Mapping | MiddlewareConfig):
            return data
        if isinstance(data, str | type):
            return {"cls": data}
        # `starlette.middleware.Middleware`, known by its shape: this package imports no web framework.
        if all(hasattr(data, part) for part in ("cls", "args", "kwargs")):
            return {"cls": import_path_of(data.cls), "args": list(data.args), "kwargs": dict(data.kwargs)}
        raise ValueError(f"must be a middleware class, its import path, or a starlette Middleware, not {shown(data)}")


class HTTPOptions(ConfigModel):
    """How the proxies listen and answer. Times are seconds.

    Attributes:
        host: address to listen on; `0.0.0.0` for all. None for no HTTP at all.
        port: port to listen on; 0 for any that is free.
        root_path: prefix that a proxy in front strips off; applications see it as ASGI's `root_path`.
        request_timeout_s: how long a request may take; None for no limit.
        keep_alive_timeout_s: how long an idle connection stays open.
        ssl_keyfile, ssl_certfile: files of the private key and the certificate; both or none.
        ssl_keyfile_password: password of the key.
        ssl_ca_certs: file of the authorities whose clients' certificates are accepted.
        middlewares: ASGI middlewares around all applications, the first outermost.
        max_body_bytes: longest request body; None for no limit.
        num_proxies: proxy processes on the one listening socket.
        location: old place of `proxy_location`.
        num_cpus: taken only as 0, as in Ray Serve.
    """

    title: ClassVar[str] = "wrong http_options"

    host: Name | None = "127.0.0.1"
    port: Port = 8000
    root_path: str = ""
    request_timeout_s: PositiveNumber | None = None
    keep_alive_timeout_s: NonNegativeNumber = 90.0
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None
    middlewares: list[MiddlewareConfig] = Field(default_factory=list)
    max_body_bytes: NonNegativeInt | None = None
    num_proxies: PositiveInt = 1
    location: ProxyLocation | None = None
    num_cpus: Annotated[int, Field(strict=True)] = 0

    @classmethod
    def from_user(cls, given: Mapping[str, Any] | HTTPOptions | None) -> HTTPOptions:
        """HTTP options as a user wrote them; files must exist, and middlewares can be imported.

        Raises:
            ConfigError: something is wrong with them; every mistake is named.
        """
        options = given if isinstance(given, HTTPOptions) else cls(**(given or {}))
        problems = [
            Problem((name,), f"there is no file {shown(path)}")
            for name in ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs")
            if (path := getattr(options, name)) is not None and not os.path.isfile(path)
        ]
        for index, middleware in enumerate(options.middlewares):
            problem = _why_not_importable(middleware.cls)
            if problem is not None:
                problems.append(Problem(("middlewares", index, "cls"), problem))
        if problems:
            raise config_error(cls.title, problems)
        return options

    @property
    def enabled(self) -> bool:
        """Whether there is HTTP at all."""
        return self.host is not None and self.location is not ProxyLocation.Disabled

    @field_validator("root_path")
    @classmethod
    def _path_or_nothing(cls, root_path: str) -> str:
        if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
            raise ValueError(f"must start with '/' and not end with it, such as '/prefix', not {shown(root_path)}")
        return root_path

    @field_validator("location", mode="before")
    @classmethod
    def _known_location(cls, location: Any) -> Any:
        return None if location is None else ProxyLocation.parse(location)

    @field_validator("num_cpus")
    @classmethod
    def _no_reservation(cls, num_cpus: int) -> int:
        if num_cpus:
            raise ValueError("proxies reserve no CPUs; remove it, and set num_proxies for more of them")
        return num_cpus

    @model_validator(mode="after")
    def _key_and_certificate(self) -> Self:
        if (self.ssl_keyfile is None) != (self.ssl_certfile is None):
            missing = "ssl_keyfile" if self.ssl_keyfile is None else "ssl_certfile"
            raise ValueError(f"HTTPS needs ssl_keyfile and ssl_certfile; {missing} is missing")
        if self.ssl_keyfile is None and (self.ssl_ca_certs is not None or self.ssl_keyfile_password is not None):
            raise ValueError("ssl_ca_certs and ssl_keyfile_password need ssl_keyfile and ssl_certfile")
        return self


def _why_not_importable(path: str) -> str | None:
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:
        return f"{shown(path)} cannot be imported: {error}"
    return None if callable(found) else f"{shown(path)} is no ASGI middleware, but {shown(found)}"


class RestOptions(ConfigModel):
    """Where the REST API listens.

    Attributes:
        host: address to listen on.
        port: port to listen on; 0 for any that is free.
    """

    title: ClassVar[str] = "wrong rest_options"

    host: Name = "127.0.0.1"
    port: Port = 8265
