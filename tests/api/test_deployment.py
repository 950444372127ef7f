"""The decorator: what it accepts, what it refuses, and what a deployment knows of itself."""

from __future__ import annotations

import abc
import pickle
from typing import Any

import pytest

from headrace.deployments import Application, Deployment, deployment
from headrace.exceptions import ConfigError


class Model:
    """A plain class."""

    def __init__(self, path: str, *, size: int = 1) -> None:
        self.path, self.size = path, size

    def predict(self, text: str) -> str:
        return text


def test_bare_decorator_takes_the_name_and_the_defaults() -> None:
    @deployment
    class Bare:
        pass

    assert isinstance(Bare, Deployment)
    assert (Bare.name, Bare.num_replicas, Bare.max_ongoing_requests, Bare.max_queued_requests) == ("Bare", 1, 5, -1)
    assert Bare.user_config is None
    assert Bare.version is None
    assert (Bare.init_args, Bare.init_kwargs) == ((), {})


def test_options_of_the_article_are_taken() -> None:
    decorated = deployment(
        num_replicas=3,
        max_ongoing_requests=100,
        ray_actor_options={"num_cpus": 2, "num_gpus": 1, "memory": 4 * 1024**3},
        health_check_period_s=10,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=2,
        graceful_shutdown_timeout_s=20,
    )(Model)
    assert decorated.num_replicas == 3
    assert decorated.ray_actor_options["num_gpus"] == 1
    assert decorated.func_or_class is Model


@pytest.mark.parametrize("kind", ["def", "async def", "generator", "async generator"])
def test_every_kind_of_function_can_be_deployed(kind: str) -> None:
    def plain() -> int:
        return 1

    async def coroutine() -> int:
        return 1

    def generator() -> Any:
        yield 1

    async def async_generator() -> Any:
        yield 1

    function = {"def": plain, "async def": coroutine, "generator": generator, "async generator": async_generator}[kind]
    assert deployment(function).bind().deployment.func_or_class is function


def test_misspelt_option_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"num_replicaz.*num_replicas"):
        deployment(num_replicaz=2)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="max_ongoing_requests"):
        deployment(Model).options(max_ongoing_request=2)


def test_route_prefix_is_pointed_to_run() -> None:
    with pytest.raises(ConfigError, match=r"serve\.run\(app, route_prefix="):
        deployment(route_prefix="/x")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match=r"serve\.run\(app, route_prefix="):
        _ = deployment(Model).route_prefix


def test_options_returns_a_copy_and_keeps_what_is_not_named() -> None:
    original = deployment(name="model", num_replicas=2, user_config={"a": 1})(Model)
    changed = original.options(num_replicas=4)
    assert (original.num_replicas, changed.num_replicas) == (2, 4)
    assert (changed.name, changed.user_config) == ("model", {"a": 1})
    assert original.options(name="other").name == "other"


def test_options_can_exchange_the_class_and_its_name_follows() -> None:
    class Other:
        pass

    changed = deployment(Model).options(Other)
    assert changed.func_or_class is Other
    assert changed.name == "Other"


def test_later_changes_of_a_given_dict_do_not_reach_the_deployment() -> None:
    config = {"threshold": [1]}
    decorated = deployment(user_config=config)(Model)
    config["threshold"].append(2)
    assert decorated.user_config == {"threshold": [1]}


def test_deployments_are_equal_by_value() -> None:
    assert deployment(Model) == deployment(num_replicas=1)(Model)
    assert deployment(Model) != deployment(num_replicas=2)(Model)
    assert deployment(Model).bind("a").deployment == deployment(Model).bind("a").deployment
    assert deployment(Model).bind("a").deployment != deployment(Model).bind("b").deployment
    assert len({deployment(Model), deployment(Model)}) == 1


def test_bind_makes_an_application_with_the_arguments() -> None:
    app = deployment(Model).bind("weights", size=2)
    assert isinstance(app, Application)
    assert (app.deployment.init_args, app.deployment.init_kwargs) == (("weights",), {"size": 2})
    assert repr(app) == "Application('Model')"


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing a required argument: 'path'"),
        (("a", "b"), {}, "too many positional arguments"),
        (("a",), {"sise": 2}, "unexpected keyword argument 'sise'"),
    ],
)
def test_wrong_constructor_arguments_show_at_bind(args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        deployment(Model).bind(*args, **kwargs)


def test_function_deployments_take_no_arguments() -> None:
    @deployment
    def double(x: int) -> int:
        return 2 * x

    with pytest.raises(ConfigError, match="'double' is a function"):
        double.bind(1)  # type: ignore[call-arg]


def test_calling_a_deployment_points_to_bind() -> None:
    with pytest.raises(ConfigError, match=r"use \.bind|Use \.bind"):
        deployment(Model)("weights")


def test_decorating_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="'Model' is a deployment already"):
        deployment(deployment(Model))
    with pytest.raises(ConfigError, match="bound already"):
        deployment(deployment(Model).bind("a"))  # type: ignore[call-overload]


def test_inheriting_from_a_deployment_points_to_the_class() -> None:
    base = deployment(Model)
    with pytest.raises(ConfigError, match=r"Model\.func_or_class"):

        class Sub(base):  # type: ignore[misc,valid-type]
            pass


def test_attributes_of_the_class_are_pointed_to() -> None:
    with pytest.raises(AttributeError, match=r"func_or_class\.predict"):
        _ = deployment(Model).predict
    with pytest.raises(AttributeError, match=r"serve\.run"):
        _ = deployment(Model).bind("a").remote


@pytest.mark.parametrize("target", [3, "module:Model", Model("a"), [Model]])
def test_only_classes_and_functions_can_be_deployed(target: Any) -> None:
    with pytest.raises(ConfigError, match="takes a class or a function"):
        deployment(target)
    with pytest.raises(TypeError):
        deployment(target)


def test_lambdas_need_a_name() -> None:
    with pytest.raises(ConfigError, match="name="):
        deployment(lambda: 1)
    assert deployment(name="one")(lambda: 1).name == "one"


@pytest.mark.parametrize("name", ["", "a#b", 7])
def test_names_that_cannot_be_part_of_an_id_are_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="name"):
        deployment(name=name)


def test_constructor_that_is_a_generator_is_refused() -> None:
    class Yields:
        def __init__(self) -> None:  # type: ignore[misc]
            yield

    with pytest.raises(ConfigError, match="yield"):
        deployment(Yields)


def test_abstract_class_is_refused() -> None:
    class Abstract(abc.ABC):
        @abc.abstractmethod
        def predict(self) -> None: ...

    with pytest.raises(ConfigError, match="implement predict"):
        deployment(Abstract)


def test_reconfigure_must_take_the_user_config() -> None:
    class NoParameter:
        def reconfigure(self) -> None: ...

    with pytest.raises(ConfigError, match="takes one argument, the user_config"):
        deployment(NoParameter)


def test_check_health_must_take_nothing() -> None:
    class Parameter:
        def check_health(self, how: str) -> None: ...

    with pytest.raises(ConfigError, match="takes no arguments"):
        deployment(Parameter)


def test_method_that_a_handle_hides_is_warned_of() -> None:
    class Hidden:
        def remote(self) -> None: ...

    with pytest.warns(UserWarning, match=r"method_name='remote'"):
        deployment(Hidden)


def test_deployments_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(deployment(Model))) == deployment(Model)
