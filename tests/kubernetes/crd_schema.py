"""KubeRay's custom resource definition as a JSON Schema that refuses what the API server would refuse or drop."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

_REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference"
RAY_SERVICE = _REFERENCE / "kuberay-rayservice-crd.yaml"


@cache
def rayservice_schema(version: str = "v1") -> dict[str, Any]:
    """The JSON Schema of a RayService."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    crd = yaml.load(RAY_SERVICE.read_text(), Loader=loader)
    found = next(each for each in crd["spec"]["versions"] if each["name"] == version)
    schema: dict[str, Any] = as_json_schema(found["schema"]["openAPIV3Schema"])
    schema["properties"]["apiVersion"] = {"const": f"ray.io/{version}"}
    schema["properties"]["kind"] = {"const": "RayService"}
    # Of metadata a definition says nothing: it is Kubernetes' own.
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def as_json_schema(node: Any) -> Any:
    """OpenAPI 3.0, as definitions of resources are written, in JSON Schema's words.

    Fields that are not there would be dropped without a word: here they are mistakes.
    """
    if isinstance(node, list):
        return [as_json_schema(each) for each in node]
    if not isinstance(node, dict):
        return node
    made = {}
    for key, value in node.items():
        if key == "properties":
            made[key] = {name: as_json_schema(each) for name, each in value.items()}
        elif not key.startswith("x-kubernetes-") and key not in ("default", "nullable", "format", "example"):
            made[key] = as_json_schema(value)
    if node.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    if node.get("nullable") and "type" in made:
        made["type"] = [made["type"], "null"]
    open_to_all = node.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in node
    if "properties" in made and not open_to_all:
        made["additionalProperties"] = False
    return made
