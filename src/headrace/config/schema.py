"""The config file: Ray Serve's schema of applications, as files and the REST API carry it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from headrace.config.autoscaling_policy import AutoscalingPolicy
from headrace.config.availability import unavailable_in_schema
from headrace.config.deployment_options import DeploymentOptions
from headrace.config.http_options import HTTPOptions, ProxyLocation
from headrace.config.logging_config import LoggingConfig
from headrace.config.model import ConfigModel, Flag, JsonObject, Name, Port, PositiveNumber
from headrace.config.problems import Problem, config_error, mistake, problems_of, shown
from headrace.config.ray_actor_options import RuntimeEnv
from headrace.config.route_prefix import route_prefix_problem
from headrace.config.tracing_config import TracingConfig


class DeploymentOverride(DeploymentOptions):
    """Options of one deployment that win over those in the code. `model_fields_set` says which are given."""

    title: ClassVar[str] = "wrong deployment"

    name: Name

    def options(self) -> dict[str, Any]:
        """What `DeploymentOptions.updated` takes: the options that are given, without the name."""
        return {name: getattr(self, name) for name in sorted(self.model_fields_set - {"name"})}


class ServeApplicationSchema(ConfigModel):
    """One application of a config file.

    Attributes:
        name: unique among the applications.
        route_prefix: under which its ingress deployment answers; None for no HTTP.
        import_path: `module:name` of an application, or of a function that returns one and is called with `args`.
        runtime_env: environment in which the application is built and run.
        args: arguments of the function.
        deployments: options that win over those in the code.
        logging_config: how its deployments log.
        request_timeout_s: how long its HTTP requests may take, seconds; None for what `http_options` says.
        external_scaler_enabled: whether something outside sets the numbers of replicas, over the REST API. Excludes
            autoscaling.
        autoscaling_policy: one policy for all of its deployments that have an `autoscaling_config`, in place of theirs.
    """

    title: ClassVar[str] = "wrong application"
    refused: ClassVar[Mapping[str, str]] = {
        "host": "is not set for one application; set it once, in 'http_options' at the top of the file",
        "port": "is not set for one application; set it once, in 'http_options' at the top of the file",
    }

    name: Name = "default"
    route_prefix: str | None = "/"
    import_path: str
    runtime_env: RuntimeEnv = Field(default_factory=RuntimeEnv)
    args: JsonObject = Field(default_factory=dict)
    deployments: list[DeploymentOverride] = Field(default_factory=list)
    logging_config: LoggingConfig | None = None
    request_timeout_s: PositiveNumber | None = None
    external_scaler_enabled: Flag = False
    autoscaling_policy: AutoscalingPolicy | None = None

    @field_validator("route_prefix")
    @classmethod
    def _possible_route_prefix(cls, route_prefix: str | None) -> str | None:
        problem = route_prefix_problem(route_prefix)
        if problem is not None:
            raise ValueError(problem)
        return route_prefix

    @field_validator("import_path")
    @classmethod
    def _possible_import_path(cls, import_path: str) -> str:
        module, separator, attribute = import_path.rpartition(":" if ":" in import_path else ".")
        if not separator:
            raise ValueError(f"must be 'module:application', not {shown(import_path)}")
        if not module or not attribute or ":" in module:
            raise ValueError(f"must be 'module:application' with one ':' between the two, not {shown(import_path)}")
        return import_path

    @field_validator("deployments")
    @classmethod
    def _each_deployment_once(cls, deployments: list[DeploymentOverride]) -> list[DeploymentOverride]:
        for index, name in _repeated([override.name for override in deployments]):
            raise mistake(f"'{name}' is already listed above; put its options into one entry", index, "name")
        return deployments

    @model_validator(mode="after")
    def _one_scaler(self) -> Self:
        scaled = [override.name for override in self.deployments if override.autoscaling_config is not None]
        if self.external_scaler_enabled and scaled:
            raise mistake(
                f"excludes the autoscaling_config of the deployment '{scaled[0]}'; remove one of them",
                "external_scaler_enabled",
            )
        if self.external_scaler_enabled and self.autoscaling_policy is not None:
            raise mistake("excludes autoscaling_policy; remove one of them", "external_scaler_enabled")
        return self


class GrpcOptionsSchema(ConfigModel):
    """gRPC. Without servicer functions nothing listens.

    Attributes:
        port: port to listen on.
        grpc_servicer_functions: import paths of `add_..._to_server` functions.
        request_timeout_s: how long a call may take, seconds; None for no limit.
        enable_reflection: whether clients can ask for the services.
    """

    port: Port = 9000
    grpc_servicer_functions: list[str] = Field(default_factory=list)
    request_timeout_s: PositiveNumber | None = None
    enable_reflection: Flag = True


class ServeDeploySchema(ConfigModel):
    """A whole config file, or the body of `PUT /api/serve/applications/`: what is not in it, goes.

    Attributes:
        proxy_location: which machines run proxies.
        http_options: where proxies listen.
        grpc_options, controller_options, target_capacity: see `availability`.
        logging_config: how the instance logs.
        tracing_config: whether and where requests are traced.
        applications: all applications that are to run.
    """

    title: ClassVar[str] = "wrong config"

    proxy_location: ProxyLocation = ProxyLocation.EveryNode
    http_options: HTTPOptions = Field(default_factory=HTTPOptions)
    grpc_options: GrpcOptionsSchema | None = None
    controller_options: JsonObject | None = None
    logging_config: LoggingConfig | None = None
    tracing_config: TracingConfig | None = None
    applications: list[ServeApplicationSchema]
    target_capacity: float | None = Field(default=None, strict=True, ge=0, le=100)

    @classmethod
    def from_user(cls, given: Any) -> Self:
        """A config as a JSON document carries it.

        Raises:
            ConfigError: something in it is wrong or not available here; every mistake is named.
        """
        problems = cls.problems_in(given)
        if problems:
            raise config_error(cls.title, problems)
        return cls.model_validate(given)

    @classmethod
    def problems_in(cls, given: Any) -> list[Problem]:
        """Every mistake in a config, each with its path; an empty list if there is none."""
        try:
            schema = cls.model_validate(given)
        except ValidationError as error:
            return problems_of(error, cls)
        return list(unavailable_in_schema(schema))

    @field_validator("proxy_location", mode="before")
    @classmethod
    def _known_location(cls, location: Any) -> Any:
        return ProxyLocation.parse(location)

    @field_validator("applications")
    @classmethod
    def _names_and_routes_of_their_own(cls, applications: list[ServeApplicationSchema]) -> list[ServeApplicationSchema]:
        for index, name in _repeated([application.name for application in applications]):
            raise mistake(f"'{name}' is the name of an application above; give each a name of its own", index, "name")
        for index, route in _repeated([application.route_prefix for application in applications]):
            owner = next(application.name for application in applications if application.route_prefix == route)
            raise mistake(
                f"'{route}' is the route of the application '{owner}'; give each a route of its own",
                index,
                "route_prefix",
            )
        return applications


def _repeated(names: Sequence[str | None]) -> list[tuple[int, str]]:
    return [(index, name) for index, name in enumerate(names) if name is not None and name in names[:index]]
