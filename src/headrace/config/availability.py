"""What is right but cannot be done yet. An option that would silently do nothing is refused instead.

Whoever makes something work deletes its lines here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from headrace.config.problems import Problem, config_error

if TYPE_CHECKING:
    from headrace.config.deployment_options import DeploymentOptions
    from headrace.config.schema import ServeDeploySchema

_NOT_YET = "is not available yet"


def refuse_unavailable(options: DeploymentOptions) -> None:
    """Does nothing if every option that is set has an effect.

    Raises:
        ConfigError: names the options that would have none, and what to do instead.
    """
    problems = list(unavailable_options(options))
    if problems:
        raise config_error(f"deployment '{options.name}'" if options.name else "deployment options", problems)


def unavailable_options(options: DeploymentOptions) -> Iterator[Problem]:
    """The options of a deployment that would have no effect."""
    if options.deployment_actors is not None:
        yield Problem(("deployment_actors",), f"{_NOT_YET}; remove it")


def unavailable_in_schema(schema: ServeDeploySchema) -> Iterator[Problem]:
    """The entries of a config file that would have no effect."""
    if schema.grpc_options is not None and schema.grpc_options.grpc_servicer_functions:
        yield Problem(("grpc_options", "grpc_servicer_functions"), f"gRPC {_NOT_YET}; remove it and use HTTP")
    if schema.controller_options and any(schema.controller_options.values()):
        yield Problem(("controller_options",), f"{_NOT_YET}; set the controller's environment where you start it")
    for index, application in enumerate(schema.applications):
        path = ("applications", index)
        for position, override in enumerate(application.deployments):
            for problem in unavailable_options(override):
                yield Problem((*path, "deployments", position, *problem.path), problem.text)
