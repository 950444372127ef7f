"""How autoscaling policies get into what is deployed."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest

from headrace.build import build_application
from headrace.config.autoscaling_policy import AutoscalingPolicy
from headrace.config.spec import ApplicationSpec
from headrace.deployments import deployment
from headrace.exceptions import ConfigError, SerializationError


@deployment
class Model:
    pass


def two(ctx: Any) -> int:
    return 2


class Named:
    def __init__(self, count: int = 1) -> None:
        self.count = count

    def __call__(self, ctx: Any) -> int:
        return self.count


def built(function: Any, **kwargs: Any) -> ApplicationSpec:
    policy = AutoscalingPolicy(policy_function=function, policy_kwargs=kwargs)
    app = Model.options(autoscaling_config={"max_replicas": 2, "policy": policy}).bind()
    return build_application(app, name="app", route_prefix="/")


def test_a_policy_travels_as_code_beside_a_readable_name() -> None:
    (spec,) = built(Named, count=3).deployments
    assert spec.policy is not None and spec.policy.name == f"{__name__}:Named"
    assert pickle.loads(spec.policy.code) == (Named, {"count": 3})
    assert spec.options["autoscaling_config"]["policy"]["policy_function"] == f"{__name__}:Named"
    assert __name__ in spec.policy.sources
    assert built(f"{__name__}:Named", count=3).deployments[0].policy == spec.policy


def test_equal_policies_have_equal_versions_and_replicas_do_not_care() -> None:
    specs = [built(Named, count=1), built(Named, count=1), built(Named, count=2), built(two)]
    versions = [spec.deployments[0].policy.version for spec in specs if spec.deployments[0].policy is not None]
    assert versions[0] == versions[1] and len(set(versions)) == 3
    assert len({spec.deployments[0].version for spec in specs}) == 1


def test_the_default_policy_is_no_code_at_all() -> None:
    (spec,) = built("ray.serve.autoscaling_policy:default_autoscaling_policy").deployments
    assert spec.policy is None


def test_arguments_of_a_function_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    (spec,) = built(two, count=3).deployments
    assert spec.policy is not None and pickle.loads(spec.policy.code)[1] == {}
    assert "policy_kwargs go to the constructor of a class" in caplog.text


def test_a_policy_that_cannot_leave_the_process_is_told() -> None:
    lock = threading.Lock()
    with pytest.raises(SerializationError) as caught:
        built(lambda ctx: lock)
    assert "deployment 'Model': autoscaling_config.policy.policy_function: " in str(caught.value)


def test_a_policy_of_rays_is_refused() -> None:
    with pytest.raises(ConfigError, match="is a policy of Ray's, which cannot run here"):
        built("ray.serve.async_inference_autoscaling_policy:AsyncInferenceAutoscalingPolicy")


def test_what_is_nothing_to_call_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be a function, a class or an import path"):
        AutoscalingPolicy(policy_function=3)  # type: ignore[arg-type]


def test_an_applications_policy_needs_a_deployment_to_decide_for() -> None:
    policy = AutoscalingPolicy(policy_function=two)
    with pytest.raises(ConfigError, match="decides for deployments that have an autoscaling_config"):
        build_application(Model.bind(), name="app", route_prefix="/", autoscaling_policy=policy)
    app = Model.options(autoscaling_config={"max_replicas": 2}).bind()
    spec = build_application(app, name="app", route_prefix="/", autoscaling_policy=policy)
    assert spec.policy is not None and spec.deployments[0].policy is None
