"""What replicas print and log reaches the terminal and their files, with their names; requests are logged too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

import headrace as serve
from headrace import client as driver

from .conditions import until

pytestmark = pytest.mark.local_engine("looks into files of this machine")


def texts(folder: Path, pattern: str = "*") -> str:
    return "".join(path.read_text() for path in folder.glob(pattern))


def make_model() -> Any:
    import logging

    @serve.deployment
    class Inner:
        def double(self, value: int) -> int:
            logging.getLogger("mine").error("doubles %d", value)
            return value * 2

    @serve.deployment
    class Model:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def __call__(self, request: Any) -> int:
            print("asked for", request.url.path)
            return int(await self.inner.double.remote(21))

    return Model.bind(Inner.bind())


def test_lines_tell_the_process_and_the_request(http: httpx.Client, instance: driver.Client) -> None:
    serve.run(make_model(), name="app", route_prefix="/app")
    folder = instance.session.dir / "logs"
    http.get("/app/x?token=hidden", headers={"x-request-id": "5f0e"})
    until(lambda: "CALL double" in texts(folder, "app#Inner#*") and "GET /app/x" in texts(folder, "proxy-0.log"))
    (printed,) = texts(folder, "app#Model#*").splitlines()
    assert " INFO    app/Model/" in printed and printed.endswith(" 5f0e /app: asked for /app/x")
    logged, called = texts(folder, "app#Inner#*").splitlines()
    assert " ERROR   app/Inner/" in logged and logged.endswith(" 5f0e /app: doubles 21")
    assert " INFO    app/Inner/" in called and " 5f0e /app: CALL double OK " in called
    (answered,) = (line for line in texts(folder, "proxy-0.log").splitlines() if "/app/x" in line)
    assert "Z INFO    proxy-0 5f0e /app: GET /app/x 200 " in answered and "hidden" not in answered


def test_a_deployment_without_an_access_log_has_none(http: httpx.Client, instance: driver.Client) -> None:
    @serve.deployment
    class Quiet:
        def __call__(self) -> str:
            print("asked")
            return "ok"

    handle = serve.run(Quiet.bind(), name="quiet", route_prefix=None, logging_config={"enable_access_log": False})
    handle.remote().result()
    serve.delete("quiet")  # all that it had to write is written
    assert "asked" in texts(instance.session.dir / "logs", "quiet#*")
    assert "CALL" not in texts(instance.session.dir / "logs", "quiet#*")


SECRETS = """
import sys
import headrace as serve
from headrace import client
import httpx

@serve.deployment(max_constructor_retry_count=1)
class Model:
    async def __call__(self, request):
        await request.body()
        if request.url.path == "/fail":
            raise ValueError("no")
        return "ok"

serve.start(http_options={"port": 0}, rest_options={"port": 0}, logging_config={"log_level": "DEBUG"})
serve.run(Model.bind(), route_prefix="/")
found = client.find()
headers = {"authorization": "Bearer key-of-a-client", "cookie": "session=cookie-of-a-client"}
for path in ("/", "/fail", "/?api_key=key-in-a-query"):
    httpx.post(found.http_url + path, headers=headers, content=b"body-of-a-client")
rest = {"authorization": "Bearer token-of-the-api"}
assert httpx.get(found.rest_url + "/api/headrace/logs").status_code == 401
assert httpx.get(found.rest_url + "/api/headrace/logs", headers=rest).status_code == 200
assert httpx.put(found.rest_url + "/api/serve/applications/", headers=rest, content="no json").status_code == 400
print("secret", (found.session.dir / "secret").read_bytes().hex())
serve.delete("default")
"""


def test_no_secret_and_no_body_is_in_any_log(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    code = "logging_config={"
    script.write_text(SECRETS.replace(code, f"{code}'logs_dir': {str(tmp_path / 'logs')!r}, "))
    environment = {**os.environ, "HEADRACE_REST_TOKEN": "token-of-the-api"}
    ended = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    secret = ended.stdout.split("secret ")[1].strip()
    logged = texts(tmp_path / "logs")
    assert "POST / 200" in logged and "POST /fail 500" in logged and "ValueError: no" in logged
    assert any(path.name.startswith("controller.") for path in (tmp_path / "logs").iterdir())
    for hidden in ("-of-a-client", "key-in-a-query", "token-of-the-api", secret, repr(bytes.fromhex(secret))):
        assert hidden not in logged and hidden not in ended.stderr


JSON = """
import logging
import headrace as serve

@serve.deployment
class Model:
    def __init__(self):
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    def __call__(self, name):
        print("printed for", name)
        logging.info("logged for %s", name)
        return name

serve.start(http_options=None, rest_options={"port": 0}, logging_config={"encoding": "JSON"})
serve.run(Model.bind(), route_prefix=None).remote("me").result()
"""


def test_as_json_each_line_is_one_object(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(JSON)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    (printed,) = map(json.loads, ended.stdout.splitlines())
    assert (printed["message"], printed["deployment"], printed["logger"]) == ("printed for me", "Model", "stdout")
    assert printed["request_id"]
    (logged,) = (line for line in map(json.loads, ended.stderr.splitlines()) if line["logger"] == "stderr")
    assert logged["message"] == "logged for me" and logged["request_id"] == printed["request_id"]


BAD_FOLDER = """
import headrace as serve

@serve.deployment(max_constructor_retry_count=1, logging_config={"logs_dir": "/proc/nowhere"})
class Model:
    pass

serve.start(http_options=None, rest_options={"port": 0})
serve.run(Model.bind(), route_prefix=None)
"""


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(BAD_FOLDER)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "logging_config.logs_dir: no log can be written in /proc/nowhere" in ended.stderr
