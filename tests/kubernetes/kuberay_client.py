"""What KubeRay asks of a head, and what it reads of the answers.

After `dashboard_httpclient.go`, `httpproxy_httpclient.go` and `serve_api_models.go` of KubeRay's operator, as it is
after version 1.7: the URLs, the headers, the deadline of two seconds, and the fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

TIMEOUT_S = 2.0
APPLICATIONS = "/api/serve/applications/"


@dataclass(frozen=True)
class DeploymentStatus:
    status: str
    message: str


@dataclass(frozen=True)
class AppStatus:
    status: str
    message: str
    deployments: dict[str, DeploymentStatus]


class DashboardError(Exception):
    """A request to a head failed, or its answer was not what it should be."""


class DashboardClient:
    """Talks to the port of the head container that is named `dashboard`.

    `host`: the Host header, the name of the head's Service in the cluster.
    """

    def __init__(self, url: str, token: str | None, host: str = "head.default.svc.cluster.local:8265") -> None:
        self._headers = {"Host": host}
        if token is not None:
            # Not Authorization: on the way through the API server's proxy that one is the API server's.
            self._headers["x-ray-authorization"] = f"Bearer {token}"
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def update_deployments(self, config: dict[str, Any]) -> None:
        self._asked("PUT", json=config)

    def applications(self) -> dict[str, AppStatus]:
        """The declared applications."""
        body = self._asked("GET", params={"api_type": "declarative"}).json()
        found = _typed(body, dict, "the answer").get("applications")
        return {name: _app(name, app) for name, app in _typed(found, dict, "applications").items()}

    def _asked(self, method: str, **what: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, APPLICATIONS, headers=self._headers, **what)
        except httpx.HTTPError as error:
            raise DashboardError(f"{method}: {error!r}") from error
        if not answer.is_success:
            raise DashboardError(f"{method}: {answer.status_code} {answer.text}")
        return answer


def proxy_is_healthy(url: str) -> bool:
    """What decides whether the head's pod is among those that the Service for requests sends to."""
    try:
        return httpx.get(f"{url}/-/healthz", timeout=TIMEOUT_S, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _app(name: str, app: Any) -> AppStatus:
    app = _typed(app, dict, name)
    for field in ("route_prefix", "docs_path", "name"):
        _typed(app.get(field), str, f"{name}.{field}", optional=True)
    deployments = {}
    for deployment, told in _typed(app.get("deployments"), dict, f"{name}.deployments", optional=True).items():
        deployments[deployment] = DeploymentStatus(
            _typed(told.get("status"), str, f"{deployment}.status", optional=True),
            _typed(told.get("message"), str, f"{deployment}.message", optional=True),
        )
    return AppStatus(
        _typed(app.get("status"), str, f"{name}.status", optional=True),
        _typed(app.get("message"), str, f"{name}.message", optional=True),
        deployments,
    )


def _typed(value: Any, kind: type, what: str, *, optional: bool = False) -> Any:
    """As Go's JSON decoder: a value of another type is an error, and null leaves what an empty one would be."""
    if value is None and optional:
        return kind()
    if not isinstance(value, kind):
        raise DashboardError(f"{what} must be a {kind.__name__}, not {value!r}")
    return value
