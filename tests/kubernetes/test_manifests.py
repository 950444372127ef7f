"""The manifests: whether Kubernetes and KubeRay take them, and what of them follows from the config and the options."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner, Result

from headrace.cli.app import app
from headrace.config import load_config

from .crd_schema import RAY_SERVICE, rayservice_schema

CONFIG = """\
# Of the text pipeline.
http_options: {port: 9000, num_proxies: 2, request_timeout_s: 30}
applications:
- name: text
  route_prefix: /analyze
  import_path: text_app:build
  deployments:
  - name: Sentiment
    num_replicas: 2
    ray_actor_options: {num_gpus: 1}
    graceful_shutdown_timeout_s: 45
"""


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADRACE_METRICS_PREFIX", raising=False)
    Path("Text App.yaml").write_text(CONFIG)


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["kubernetes", *arguments], env={"COLUMNS": "200"})


def printed(kind: str, *arguments: str, target: str = "Text App.yaml") -> list[dict[str, Any]]:
    result = command(kind, target, "--image", "my-app:1", "--gpus", "1", *arguments)
    assert result.exit_code == 0, result.output
    return list(yaml.safe_load_all(result.stdout))


def rayservice(*arguments: str, **how: Any) -> dict[str, Any]:
    (manifest,) = printed("rayservice", *arguments, **how)
    return manifest


def of_kind(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(each for each in manifests if each["kind"] == kind)


EVERYTHING = (
    *("--name", "everything", "--namespace", "models", "--workers", "0:4", "--cpus", "7500m", "--memory", "30Gi"),
    *("--node-selector", "pool=gpu", "--env", "HF_HOME=/models", "--env-from-secret", "hub", "--service-account", "me"),
    *("--image-pull-secret", "registry", "--drain-s", "90"),
)
RAY_SERVICES: dict[str, tuple[str, ...]] = {
    "as it comes": (),
    "with everything": (
        *(*EVERYTHING, "--head-cpus", "1", "--head-memory", "4Gi", "--idle-timeout-s", "60", "--exclude-head"),
        *("--gcs-fault-tolerance", "redis:6379", "--redis-secret", "redis:password", "--ray-version", "2.61.0"),
    ),
    "upgraded in steps": (
        *("--workers", "1:4", "--upgrade", "incremental", "--gateway-class", "istio"),
        *("--step-percent", "20", "--surge-percent", "50", "--step-interval-s", "60"),
    ),
    "not upgraded": ("--upgrade", "none"),
}
DEPLOYMENTS: dict[str, tuple[str, ...]] = {
    "as it comes": (),
    "scaled": ("--pods", "2:10", "--target-ongoing-requests", "2.5"),
    "with everything": tuple({"--workers": "--pods", "0:4": "1:4"}.get(argument, argument) for argument in EVERYTHING),
}


@pytest.mark.skipif(not RAY_SERVICE.exists(), reason="KubeRay's definitions are not here")
@pytest.mark.parametrize("arguments", RAY_SERVICES.values(), ids=RAY_SERVICES.keys())
def test_kuberay_takes_each_rayservice(arguments: tuple[str, ...]) -> None:
    jsonschema.Draft202012Validator(rayservice_schema()).validate(rayservice(*arguments))


@pytest.mark.skipif(not RAY_SERVICE.exists(), reason="KubeRay's definitions are not here")
def test_the_schema_refuses_what_kuberay_does_not_know() -> None:
    manifest = rayservice()
    container = manifest["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    for wrong in ({"imagee": "x"}, {"ports": [{"containerPort": "8000"}]}, {"resources": {"limits": {"cpu": "four"}}}):
        kept = dict(container)
        container.update(wrong)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(rayservice_schema()).validate(manifest)
        container.clear()
        container.update(kept)


def pods_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The pods of a RayService: the head's, and those of the groups of workers."""
    cluster = manifest["spec"]["rayClusterConfig"]
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster.get("workerGroupSpecs", []))]


@pytest.mark.parametrize("arguments", DEPLOYMENTS.values(), ids=DEPLOYMENTS.keys())
def test_kubernetes_takes_each_manifest_without_ray(arguments: tuple[str, ...]) -> None:
    for manifest in printed("deployment", *arguments):
        for version in ("1.29", "1.37"):
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("arguments", RAY_SERVICES.values(), ids=RAY_SERVICES.keys())
def test_kubernetes_takes_the_pods_of_each_rayservice(arguments: tuple[str, ...]) -> None:
    for template in pods_of(rayservice(*arguments)):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, "1.37", strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")
def test_kubectl_reads_what_was_written() -> None:
    """As far as it goes without a cluster: it decodes each into Kubernetes' own types."""
    assert command("deployment", "Text App.yaml", "--image", "my-app:1", "--gpus", "1", "-o", "k8s.yaml").exit_code == 0
    read = subprocess.run(
        ["kubectl", "label", "--local", "-f", "k8s.yaml", "checked=yes", "-o", "name"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert read.returncode == 0, read.stderr
    assert read.stdout.split() == [
        "configmap/text-app",
        "deployment.apps/text-app",
        "service/text-app",
        "poddisruptionbudget.policy/text-app",
    ]


def test_the_config_is_served_as_it_was_written() -> None:
    assert rayservice()["spec"]["serveConfigV2"] == CONFIG
    assert of_kind(printed("deployment"), "ConfigMap")["data"] == {"app.yaml": CONFIG}


def test_an_import_path_becomes_a_config() -> None:
    text = rayservice(target="text_app:app")["spec"]["serveConfigV2"]
    Path("made.yaml").write_text(text)
    assert load_config(Path("made.yaml")).applications[0].import_path == "text_app:app"
    assert rayservice(target="text_app:app")["metadata"]["name"] == "text-app"


def test_kuberay_finds_headrace_at_the_port_named_dashboard_and_the_proxies_at_serve() -> None:
    head, worker = (template["spec"]["containers"][0] for template in pods_of(rayservice()))
    ports = {port["name"]: port["containerPort"] for port in head["ports"]}
    assert (ports["dashboard"], ports["serve"], ports["ray-dashboard"]) == (8265, 9000, 8266)
    assert {port["name"]: port["containerPort"] for port in worker["ports"]} == {"serve": 9000}
    script = head["args"][0]
    assert (
        "headrace start --engine ray --http-host 0.0.0.0 --http-port 9000 --num-proxies 2 --request-timeout-s 30 "
        in script
    )
    assert "--rest-host 0.0.0.0 --rest-port 8265" in script


def test_traces_go_where_the_config_says() -> None:
    tracing = "tracing_config: {endpoint: 'http://tempo:4318', sampling_ratio: 0.1}"
    Path("Text App.yaml").write_text(f"{tracing}\n{CONFIG}")
    (head, *_) = pods_of(rayservice())
    assert "--otlp-endpoint http://tempo:4318 --trace-sampling-ratio 0.1" in head["spec"]["containers"][0]["args"][0]


def test_rays_own_dashboard_makes_way() -> None:
    head = rayservice()["spec"]["rayClusterConfig"]["headGroupSpec"]
    assert head["rayStartParams"]["dashboard-port"] == "8266"


def test_workers_follow_the_replicas_only_where_their_number_is_not_fixed() -> None:
    fixed = rayservice("--workers", "3")["spec"]["rayClusterConfig"]
    assert "enableInTreeAutoscaling" not in fixed
    group = fixed["workerGroupSpecs"][0]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (3, 3, 3)
    scaled = rayservice("--workers", "1:3", "--idle-timeout-s", "60")["spec"]["rayClusterConfig"]
    assert scaled["enableInTreeAutoscaling"] is True
    assert scaled["autoscalerOptions"] == {"version": "v2", "idleTimeoutSeconds": 60}


def test_without_workers_replicas_run_on_the_head() -> None:
    Path("small.yaml").write_text("applications:\n- import_path: a:b\n")
    result = command("rayservice", "small.yaml", "--image", "my-app:1", "--workers", "0")
    cluster = yaml.safe_load(result.stdout)["spec"]["rayClusterConfig"]
    assert "workerGroupSpecs" not in cluster
    assert "num-cpus" not in cluster["headGroupSpec"]["rayStartParams"]


def test_the_clusters_state_outlives_the_head_in_a_redis() -> None:
    options = rayservice("--gcs-fault-tolerance", "redis:6379", "--redis-secret", "redis:password")
    assert options["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"] == {
        "redisAddress": "redis:6379",
        "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}},
    }


@pytest.mark.parametrize(("arguments", "drain_s"), [((), 45), (("--drain-s", "90"), 90)])
def test_a_pod_has_time_to_finish_what_it_began(arguments: tuple[str, ...], drain_s: int) -> None:
    plain = of_kind(printed("deployment", *arguments), "Deployment")["spec"]["template"]
    for template in (*pods_of(rayservice(*arguments)), plain):
        spec = template["spec"]
        settle_s = int(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
        assert spec["terminationGracePeriodSeconds"] > settle_s + drain_s
    for template in pods_of(rayservice(*arguments)):
        environment = {each["name"]: each.get("value") for each in template["spec"]["containers"][0]["env"]}
        assert environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == str(drain_s)


def test_the_autoscaler_goes_by_the_metric_that_the_pods_export() -> None:
    manifests = printed("deployment", "--pods", "2:10", "--metrics-prefix", "headrace_")
    (metric,) = of_kind(manifests, "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "headrace_serve_num_ongoing_http_requests"
    container = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "HEADRACE_METRICS_PREFIX", "value": "headrace_"} in container["env"]


def test_a_fixed_number_of_pods_needs_no_autoscaler() -> None:
    manifests = printed("deployment", "--pods", "3")
    assert "HorizontalPodAutoscaler" not in [each["kind"] for each in manifests]
    assert of_kind(manifests, "Deployment")["spec"]["replicas"] == 3


def test_another_config_is_another_pod() -> None:
    before = of_kind(printed("deployment"), "Deployment")["spec"]["template"]["metadata"]["annotations"]
    Path("Text App.yaml").write_text(CONFIG.replace("num_replicas: 2", "num_replicas: 3"))
    after = of_kind(printed("deployment"), "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert before["headrace/config-sha256"] != after["headrace/config-sha256"]


def test_only_pods_with_gpus_go_to_machines_that_are_kept_for_them() -> None:
    head, worker = pods_of(rayservice("--gpu-resource", "amd.com/gpu", "--node-selector", "pool=gpu"))
    assert "tolerations" not in head["spec"] and "nodeSelector" not in head["spec"]
    assert worker["spec"]["tolerations"][0]["key"] == "amd.com/gpu"
    assert worker["spec"]["nodeSelector"] == {"pool": "gpu"}
    assert worker["spec"]["containers"][0]["resources"]["limits"]["amd.com/gpu"] == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("rayservice", "--gpus", "0"), "gpus: deployment 'Sentiment' of application 'text' needs 1"),
        (("deployment", "--gpus", "0"), "say --gpus 1"),
        (("rayservice", "--workers", "4:1"), "workers: the least comes first: '1:4'"),
        (("rayservice", "--workers", "some"), "workers: must be a number, or the least and the most"),
        (("rayservice", "--workers", "0", "--gpus", "0"), "the head, without workers, has 0"),
        (("rayservice", "--memory", "16"), "memory: must be at least a megabyte"),
        (("rayservice", "--cpus", "four"), "cpus: must be an amount"),
        (("rayservice", "--cpus", "0"), "cpus: must be more than 0"),
        (("rayservice", "--name", "Text_App"), "'text-app' would be one"),
        (("rayservice", "--name", "a" * 48), "name: must have at most 47 characters, not 48"),
        (("rayservice", "--image", "https://images/app"), "image: must be the name of an image"),
        (("rayservice", "--upgrade", "incremantal"), "did you mean 'incremental'?"),
        (("rayservice", "--upgrade", "incremental"), "gateway_class: is needed"),
        (("rayservice", "--redis-secret", "redis:password"), "redis_secret: is of no use without"),
        (("rayservice", "--gcs-fault-tolerance", "redis"), "gcs_fault_tolerance: must be HOST:PORT"),
        (("rayservice", "--ray-version", "2.40.0"), "ray_version: must be 2.53.0 at least"),
        (("rayservice", "--env", "HF_HOME"), "--env must be KEY=VALUE"),
        (("rayservice", "--env", "a b=c"), "env: 'a b' cannot be an environment variable"),
        (("rayservice", "--node-selector", "pool=g pu"), "node_selector: 'pool=g pu' is no label"),
        (("deployment", "--pods", "0:4"), "pods: must be 1 at least"),
        (("deployment", "--target-ongoing-requests", "0"), "target_ongoing_requests: must be greater than 0"),
        (("deployment", "--metrics-prefix", "1_"), "metrics_prefix"),
        (("deployment", "-o", "nowhere/k8s.yaml"), "--output: cannot write nowhere/k8s.yaml"),
    ],
)
def test_a_mistake_is_named(arguments: tuple[str, ...], says: str) -> None:
    kind, *options = arguments
    result = command(kind, "Text App.yaml", "--image", "my-app:1", "--gpus", "1", *options)
    assert result.exit_code == 1
    assert says in result.output
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("proxy_location: Disabled", "proxy_location: is without HTTP"),
        ("http_options: {host: null}", "http_options: is without HTTP"),
        ("http_options: {port: 8265}", "http_options.port: 8265 is taken in these pods"),
        ("http_options: {root_path: /models}", "http_options.root_path: KubeRay asks proxies at /-/healthz"),
    ],
)
def test_a_config_that_pods_cannot_serve_is_refused_with_the_field(field: str, says: str) -> None:
    Path("wrong.yaml").write_text(f"{field}\napplications:\n- import_path: a:b\n")
    result = command("rayservice", "wrong.yaml", "--image", "my-app:1")
    assert result.exit_code == 1
    assert says in result.output
