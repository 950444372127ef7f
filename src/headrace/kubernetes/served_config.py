"""What of a config decides how pods must be: what its replicas need, where its proxies listen, how long it drains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headrace.config import DeploymentOptions, ServeDeploySchema
from headrace.config.http_options import HTTPOptions, ProxyLocation
from headrace.exceptions import ConfigError


@dataclass(frozen=True)
class ServedConfig:
    """A config to serve.

    Attributes:
        text: YAML, as it was written.
        schema: what it says.
    """

    text: str
    schema: ServeDeploySchema

    @property
    def http(self) -> HTTPOptions:
        return self.schema.http_options

    def check_serves_http(self) -> None:
        """
        Raises:
            ConfigError: nothing would listen.
        """
        if self.schema.proxy_location is ProxyLocation.Disabled or not self.http.enabled:
            field = "http_options" if self.schema.proxy_location is not ProxyLocation.Disabled else "proxy_location"
            raise ConfigError(f"{field}: is without HTTP; pods on Kubernetes are asked over HTTP, so remove it")

    def start_flags(self) -> list[str]:
        """What `headrace start` is to be told, beyond the hosts: an instance listens before it gets its config."""
        http, tracing = self.http, self.schema.tracing_config
        flags = ["--http-port", str(http.port)]
        for flag, value in (
            ("--num-proxies", http.num_proxies if http.num_proxies != 1 else None),
            ("--root-path", http.root_path or None),
            ("--request-timeout-s", http.request_timeout_s),
            ("--max-body-bytes", http.max_body_bytes),
            ("--otlp-endpoint", tracing.endpoint if tracing is not None else None),
            ("--trace-sampling-ratio", tracing.sampling_ratio if tracing is not None else None),
            ("--log-level", self.schema.logging_config.log_level if self.schema.logging_config is not None else None),
        ):
            if value is not None:
                flags += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
        return flags

    def drain_s(self) -> float:
        """How long the slowest of its deployments may take to finish what it has begun, as far as the config says."""
        return max(
            (options.graceful_shutdown_timeout_s for _, options in self._deployments()),
            default=DeploymentOptions().graceful_shutdown_timeout_s,
        )

    def check_fits(self, *, cpus: float, gpus: int, what: str) -> None:
        """
        Args:
            cpus, gpus: what one pod has.
            what: which pod, for the message.

        Raises:
            ConfigError: one replica needs more than there is in one pod.
        """
        for where, options in self._deployments():
            if options.placement_group_bundles is not None:
                continue  # its parts may be on several
            actor = options.ray_actor_options
            if actor.num_gpus > gpus:
                raise ConfigError(
                    f"gpus: {where} needs {actor.num_gpus:g} of them for one replica, and {what} has {gpus}; "
                    f"say --gpus {actor.num_gpus:g}"
                )
            if actor.num_cpus > cpus:
                raise ConfigError(
                    f"cpus: {where} needs {actor.num_cpus:g} of them for one replica, and {what} has {cpus:g}; "
                    f"say --cpus {actor.num_cpus:g}"
                )

    def _deployments(self) -> Iterator[tuple[str, DeploymentOptions]]:
        for application in self.schema.applications:
            for override in application.deployments:
                yield f"deployment '{override.name}' of application '{application.name}'", override


def yaml_stream(documents: list[dict[str, Any]]) -> str:
    """Manifests as one file."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Long texts as blocks, and lists set in, as `kubectl` shows them."""

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return "---\n".join(
        yaml.dump(document, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120) for document in documents
    )
