"""Config files: what is read, and what the reader of a mistake sees."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.config import DeploymentOptions, ServeDeploySchema, load_config

from .wrong import message

WHOLE = """\
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: 8001
grpc_options:
  port: 9000
  grpc_servicer_functions: []
logging_config:
  log_level: DEBUG
applications:
- name: text
  import_path: text_app:build
  route_prefix: /analyze
  args:
    model: small
  runtime_env:
    pip: []
    env_vars:
      TOKEN: "12"
  deployments:
  - name: Sentiment
    num_replicas: 2
    user_config: {threshold: 0.5}
    ray_actor_options: {num_cpus: 0.5}
- name: other
  import_path: other.app
  route_prefix: null
"""


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(WHOLE)
    schema = load_config(path)
    text, other = schema.applications
    assert (schema.http_options.host, schema.http_options.port) == ("0.0.0.0", 8001)
    assert (text.name, text.route_prefix, text.args) == ("text", "/analyze", {"model": "small"})
    assert text.runtime_env.env_vars == {"TOKEN": "12"}
    assert other.route_prefix is None


def test_an_override_says_only_what_is_given() -> None:
    (override,) = load_config(WHOLE).applications[0].deployments
    assert sorted(override.options()) == ["num_replicas", "ray_actor_options", "user_config"]
    merged = DeploymentOptions.from_user(name="Sentiment", num_replicas=5, max_ongoing_requests=9).updated(
        **override.options()
    )
    assert (merged.num_replicas, merged.max_ongoing_requests) == (2, 9)
    assert merged.ray_actor_options.num_cpus == 0.5


def test_what_is_sent_to_the_rest_api_is_what_was_read() -> None:
    schema = load_config(WHOLE)
    sent = json.loads(json.dumps(schema.model_dump(mode="json", exclude_unset=True)))
    assert ServeDeploySchema.from_user(sent) == schema
    assert "health_check_period_s" not in sent["applications"][0]["deployments"][0]


names = st.text(alphabet="abc-_é 1#:{}[]'\"", min_size=1, max_size=8)


@settings(deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"name": names, "import_path": st.sampled_from(["a:b", "a.b:c", "a.b"])},
            optional={
                "args": st.dictionaries(names, st.integers() | st.text(max_size=5) | st.booleans(), max_size=3),
                "deployments": st.lists(
                    st.fixed_dictionaries(
                        {"name": names.filter(lambda name: "#" not in name)},
                        optional={"num_replicas": st.integers(1, 9)},
                    ),
                    unique_by=lambda deployment: str(deployment["name"]),
                    max_size=3,
                ),
            },
        ),
        unique_by=lambda app: str(app["name"]),
        max_size=4,
    )
)
def test_any_config_survives_yaml(applications: list[dict[str, Any]]) -> None:
    for index, application in enumerate(applications):
        application["route_prefix"] = f"/{index}"
    schema = ServeDeploySchema.from_user({"applications": applications})
    assert load_config(yaml.safe_dump(schema.model_dump(mode="json", exclude_unset=True))) == schema


def wrong_line(replaced: str, by: str) -> str:
    """What is said of the whole file with one piece of it changed."""
    assert replaced in WHOLE
    return message(load_config, WHOLE.replace(replaced, by, 1), name="serve.yaml")


@pytest.mark.parametrize(
    ("replaced", "by", "said"),
    [
        (
            "num_replicas: 2",
            "num_replica: 2",
            "serve.yaml:22: applications[0].deployments[0].num_replica: no such option; did you mean 'num_replicas'?",
        ),
        (
            "num_replicas: 2",
            "num_replicas: -2",
            "serve.yaml:22: applications[0].deployments[0].num_replicas: must be at least 1, not -2",
        ),
        (
            "EveryNode",
            "Everywhere",
            "serve.yaml:1: proxy_location: must be 'Disabled', 'HeadOnly' or 'EveryNode', not 'Everywhere'; "
            "did you mean 'EveryNode'?",
        ),
        ("  import_path: text_app:build\n", "", "serve.yaml:11: applications[0].import_path: is required"),
        (
            "text_app:build",
            "text_app",
            "serve.yaml:12: applications[0].import_path: must be 'module:application', not 'text_app'",
        ),
        (
            '"12"',
            "12",
            "serve.yaml:19: applications[0].runtime_env.env_vars.TOKEN: must be a string, not 12; "
            'put it in quotes: "12"',
        ),
        (
            "name: other",
            "name: text",
            "serve.yaml:25: applications[1].name: 'text' is the name of an application above; "
            "give each a name of its own",
        ),
        (
            "route_prefix: null",
            "route_prefix: /analyze",
            "serve.yaml:27: applications[1].route_prefix: '/analyze' is the route of the application 'text'; "
            "give each a route of its own",
        ),
        (
            "  route_prefix: null",
            "  port: 8000",
            "serve.yaml:27: applications[1].port: is not set for one application; set it once, in 'http_options' "
            "at the top of the file",
        ),
        (
            "grpc_servicer_functions: []",
            "grpc_servicer_functions: [a:b]",
            "serve.yaml:7: grpc_options.grpc_servicer_functions: gRPC is not available yet; remove it and use HTTP",
        ),
        (
            "proxy_location: EveryNode",
            "target_capacity: 150",
            "serve.yaml:1: target_capacity: must be at most 100, not 150",
        ),
        (
            "- name: other",
            "- name: other\n  external_scaler_enabled: true\n  autoscaling_policy: {policy_function: 'm:f'}",
            "serve.yaml:26: applications[1].external_scaler_enabled: excludes autoscaling_policy; remove one of them",
        ),
        (
            "num_replicas: 2",
            "deployment_actors: [{name: a, actor_class: 'm:C'}]",
            "serve.yaml:22: applications[0].deployments[0].deployment_actors: is not available yet; remove it",
        ),
        (
            "  port: 8001",
            "  port: 8001\n  port: 8002",
            "serve.yaml:5: http_options.port: is already given in line 4; remove one of them",
        ),
    ],
)
def test_a_mistake_is_told_with_file_line_field_and_what_is_right(replaced: str, by: str, said: str) -> None:
    assert wrong_line(replaced, by) == said


def test_all_mistakes_of_a_file_are_told_in_the_order_of_its_lines() -> None:
    said = wrong_line("    num_replicas: 2\n    user_config", "    num_replica: 2\n    usr_config")
    assert said.splitlines()[0] == "2 mistakes"
    assert [line.split(": ")[0].strip() for line in said.splitlines()[1:]] == ["serve.yaml:22", "serve.yaml:23"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("applications: [", "<config>:1:16: not valid YAML: "),
        ("", "<config> is empty"),
        ("- 1", "<config>:1: must be a mapping with the key 'applications', not [1]"),
        ("applications:\n- import_path: a:b\n  args: &loop {x: *loop}", "Circular reference"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
        ("http_options: {}", "<config>:1: applications: is required"),
    ],
)
def test_what_is_no_config_at_all_is_told(text: str, said: str) -> None:
    assert said in message(load_config, text)


def test_a_misspelt_file_name_gets_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").touch()
    assert message(load_config, tmp_path / "serv.yaml") == (
        f"there is no file '{tmp_path}/serv.yaml'; did you mean '{tmp_path}/serve.yaml'?"
    )


def test_importing_the_specs_imports_no_pydantic() -> None:
    program = "import headrace.config.spec, sys; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_importing_the_options_imports_no_yaml() -> None:
    program = "from headrace.config import load_config, InstanceConfig; import sys; sys.exit('yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
