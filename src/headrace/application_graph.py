"""From one application to all that it is made of: the walk over bound deployments, wherever they stand in arguments."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from headrace.deployment_target import named_arguments
from headrace.deployments import Application, Deployment
from headrace.exceptions import ApplicationBuildError, ConfigError, SerializationError
from headrace.handle import DeploymentHandle
from headrace.serialization import CodePickler, NullFile, explain_unserializable, is_serializable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Node:
    """One deployment of an application. `children` are the applications in its arguments, each once."""

    application: Application[Any]
    name: str
    children: tuple[Application[Any], ...]

    @property
    def deployment(self) -> Deployment[..., Any]:
        return self.application.deployment


FindChildren = Callable[[Application[Any]], tuple[Application[Any], ...]]


def children_by_pickling(application: Application[Any]) -> tuple[Application[Any], ...]:
    """The applications anywhere in the arguments of `application`, in the order in which pickle meets them.

    Raises:
        ConfigError: an argument is a deployment that nobody has bound.
        SerializationError: an argument cannot be pickled; the message says which, and what in it.
    """
    deployment = application.deployment
    refuse_unbound(deployment)
    try:
        return tuple(applications_in((deployment.init_args, deployment.init_kwargs)))
    except Exception as error:
        raise SerializationError(_explanation(deployment, error)) from error


def applications_in(value: Any) -> list[Application[Any]]:
    """The applications anywhere in a value, each once. Raises what pickling the value raises."""
    # Buffers out of band: arrays are looked at, not copied.
    finder = _Finder(NullFile(), buffer_callback=lambda _: None)
    finder.dump(value)
    return finder.found


class _Finder(CodePickler):
    def __init__(self, file: Any, buffer_callback: Callable[[Any], Any]) -> None:
        super().__init__(file, buffer_callback)
        self.found: list[Application[Any]] = []

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Application):
            self.found.append(obj)
            return tuple, ()
        return super().reducer_override(obj)


class HandlePickler(CodePickler):
    """Puts a handle wherever an application stands. `handle_of` gives it, or None to leave the application."""

    def __init__(self, file: Any, handle_of: Callable[[Application[Any]], DeploymentHandle[Any] | None]) -> None:
        super().__init__(file)
        self._handle_of = handle_of

    def reducer_override(self, obj: Any) -> Any:
        handle = self._handle_of(obj) if isinstance(obj, Application) else None
        return handle.__reduce__() if handle is not None else super().reducer_override(obj)


def refuse_unbound(deployment: Deployment[..., Any]) -> None:
    """Raises ConfigError if an argument is a deployment that nobody has bound."""
    for name, value in named_arguments(deployment.func_or_class, deployment.init_args, deployment.init_kwargs):
        for part in _shallow(value):
            if isinstance(part, Deployment):
                raise ConfigError(
                    f"argument {name!r} of deployment {deployment.name!r} is the deployment {part.name!r}, which "
                    f"is not bound: pass {part.name}.bind(...)"
                )


def _shallow(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, list | tuple | set | frozenset):
        yield from value
    elif isinstance(value, dict):
        yield from value.values()


def _explanation(deployment: Deployment[..., Any], error: Exception) -> str:
    for name, value in named_arguments(deployment.func_or_class, deployment.init_args, deployment.init_kwargs):
        if not is_serializable(value):
            return f"deployment {deployment.name!r}: argument {explain_unserializable(value, name, error)}"
    return f"deployment {deployment.name!r}: its arguments cannot be sent to another process ({error})"


def walk(root: Application[Any], find_children: FindChildren = children_by_pickling) -> list[Node]:
    """All deployments of an application, callees before their callers and `root` last.

    Each application appears once, however many share it. Names are made unique: of several deployments with the name
    `Model`, the first one met keeps it and the others become `Model_1`, `Model_2`, …

    Raises:
        ApplicationBuildError: applications call each other in a circle.
    """
    nodes: dict[Application[Any], Node] = {}
    taken: set[str] = set()
    children = find_children(root)
    # A stack of our own, so that chains may be longer than Python's recursion limit.
    path: dict[Application[Any], tuple[tuple[Application[Any], ...], Iterator[Application[Any]]]] = {
        root: (children, iter(children))
    }
    while path:
        application, (children, rest) = next(reversed(path.items()))
        child = next((child for child in rest if child not in nodes), None)
        if child is None:
            del path[application]
            nodes[application] = Node(application, _unique_name(application, taken), children)
        elif child in path:
            raise ApplicationBuildError(_describe_cycle(list(path), child))
        else:
            grandchildren = find_children(child)
            path[child] = (grandchildren, iter(grandchildren))
    return list(nodes.values())


def _describe_cycle(path: list[Application[Any]], again: Application[Any]) -> str:
    circle = [application.deployment.name for application in (*path[path.index(again) :], again)]
    return (
        f"circular bind: {' -> '.join(circle)}. A deployment needs handles to its callees before it can start, so none "
        "of these can be first. Bind one of them without the other, and look the other up at run time with "
        "serve.get_deployment_handle(name)."
    )


def _unique_name(application: Application[Any], taken: set[str]) -> str:
    wanted = name = application.deployment.name
    index = 0
    while name in taken:
        index += 1
        name = f"{wanted}_{index}"
    if index:
        logger.info("the application has several deployments named %r; one of them becomes %r", wanted, name)
    taken.add(name)
    return name
