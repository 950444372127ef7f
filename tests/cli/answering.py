"""A REST API on a real socket that answers what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Answers:
    """Attributes: `details`: what GET answers, one after the other, the last one for ever. `nodes`: the machines.
    `asked`: method, body."""

    def __init__(self, *details: dict[str, Any]) -> None:
        self.details = list(details)
        self.asked: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.nodes: list[dict[str, Any]] = [node("local", head=True)]
        self.to_put: tuple[int, dict[str, Any]] = (200, {})
        self.address = ""

    def put(self) -> Any:
        """The one body that was PUT."""
        (body,) = [body for method, body in self.asked if method == "PUT"]
        return body

    def answer(self, method: str, body: Any, path: str = "") -> tuple[int, Any]:
        if path == "/api/headrace/nodes":
            return 200, {"nodes": self.nodes}
        self.asked.append((method, body))
        if method == "PUT":
            return self.to_put
        if method == "GET":
            return 200, self.details.pop(0) if len(self.details) > 1 else self.details[0]
        return 200, {}


@contextmanager
def answering(*details: dict[str, Any]) -> Iterator[Answers]:
    """Serve these details until the end of the `with` statement."""
    answers = Answers(*details)

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            answers.headers.append(dict(self.headers))
            status, answer = answers.answer(self.command, body, self.path)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_DELETE = _any

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    answers.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield answers
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def node(name: str, host: str = "127.0.0.1", **facts: Any) -> dict[str, Any]:
    """A machine in the form of the REST API."""
    told = {"alive": True, "head": False, "zone": None, "resources": {"CPU": 8.0, "memory": 64e9}, "labels": {}}
    return {"node_id": name, "node_ip": host, **told, **facts}


def deployment(
    name: str, running: int = 1, target: int = 1, status: str = "HEALTHY", message: str = ""
) -> dict[str, Any]:
    """A deployment in the form of the REST API."""
    return {
        "name": name,
        "status": status,
        "status_trigger": "CONFIG_UPDATE_COMPLETED",
        "message": message,
        "deployment_config": {"name": name},
        "target_num_replicas": target,
        "replicas": [{"replica_id": f"{name}-{i}", "state": "RUNNING", "pid": 1} for i in range(running)]
        + [{"replica_id": f"{name}-s{i}", "state": "STARTING", "pid": 1} for i in range(target - running)],
    }


def application(
    name: str,
    *deployments: dict[str, Any],
    status: str = "RUNNING",
    message: str = "",
    route_prefix: str | None = "/",
    config: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """An application in the form of the REST API."""
    return {
        "name": name,
        "route_prefix": route_prefix,
        "status": status,
        "message": message,
        "last_deployed_time_s": 1000.0,
        "deployed_app_config": config,
        "deployments": {deployment["name"]: deployment for deployment in deployments},
    }


def details(*applications: dict[str, Any], http: dict[str, Any] | None = None) -> dict[str, Any]:
    """The whole answer of the REST API."""
    return {
        "proxy_location": "EveryNode",
        "http_options": http or {"host": "127.0.0.1", "port": 8000},
        "proxies": {"proxy-0": {"status": "HEALTHY"}},
        "applications": {application["name"]: application for application in applications},
        "target_capacity": None,
    }
