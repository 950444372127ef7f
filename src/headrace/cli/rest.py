"""A client of the REST API, with nothing but the standard library."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.config.rest_token import TOKEN_VARIABLE, rest_token
from headrace.exceptions import ConfigError, HeadraceError, NotRunningError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ADDRESS_VARIABLES = ("HEADRACE_REST_ADDRESS", "RAY_DASHBOARD_ADDRESS")

if TYPE_CHECKING:
    from headrace.engine.session import Session


class SilentProcessError(HeadraceError):
    """A process of the instance does not answer the one that was asked."""


_APPLICATIONS = "/api/serve/applications/"
_OURS = "/api/headrace/applications/"
_LOGS = "/api/headrace/logs/entries"
_NODES = "/api/headrace/nodes"


def connect(given: str | None) -> RestClient:
    """A client of the REST API that is given, or that the environment names, or of the instance on this machine.

    Raises:
        ConfigError: what is given is no address.
    """
    address = given or named_by_environment()
    token = rest_token()
    if address is not None:
        return RestClient(_normal(address), token)
    from headrace.engine.session import find_current

    session = find_current()
    return RestClient(DEFAULT_ADDRESS, token) if session is None else of_session(session)


def named_by_environment() -> str | None:
    """The address in the environment, None if there is none."""
    return next((value for name in ADDRESS_VARIABLES if (value := os.environ.get(name))), None)


def of_session(session: Session) -> RestClient:
    """A client of the instance in a session folder; the token, if there is one, lies there."""
    return RestClient(address_of(session.rest), rest_token(), session=session)


def address_of(listening: tuple[str, int]) -> str:
    """The URL of a host and port that something listens on."""
    host, port = listening
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _normal(address: str) -> str:
    url = urllib.parse.urlsplit(address if "://" in address else f"http://{address}")
    try:
        port = url.port
    except ValueError:
        port = -1
    if url.scheme not in ("http", "https") or not url.hostname or port == -1:
        raise ConfigError(f"--address must look like {DEFAULT_ADDRESS}, not {address!r}")
    return f"{url.scheme}://{url.netloc}"


class RestClient:
    """Talks to the REST API at `address`. `session`: the instance that it is of, where that is of this machine."""

    def __init__(
        self, address: str, token: str | None = None, timeout_s: float = 30.0, session: Session | None = None
    ) -> None:
        self.address = address
        self._session = session
        self._timeout_s = timeout_s
        self._headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        # A proxy from the environment knows no way to this machine's loopback.
        handlers = [urllib.request.ProxyHandler({})] if self.local else []
        self._opener = urllib.request.build_opener(*handlers)

    def _found_token(self) -> bool:
        """Take the token of the session, if it has one that has not been tried."""
        if self._session is None:
            return False
        try:
            authorization = f"Bearer {(self._session.dir / 'rest_token').read_text().strip()}"
        except OSError:
            return False
        news = self._headers.get("Authorization") != authorization
        self._headers["Authorization"] = authorization
        return news

    @property
    def local(self) -> bool:
        """Whether the API is on this machine, so that it sees the same files."""
        host = urllib.parse.urlsplit(self.address).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def details(self) -> dict[str, Any]:
        """Everything that the API tells of the instance and its applications.

        Raises:
            NotRunningError: nothing answers there.
            HeadraceError: the answer is an error.
        """
        details: dict[str, Any] = self._request("GET")
        return details

    def nodes(self) -> list[dict[str, Any]]:
        """The machines of the instance; none, if it is of a version of Headrace that tells of none.

        Raises:
            NotRunningError: nothing answers there.
        """
        try:
            nodes: list[dict[str, Any]] = self._request("GET", path=_NODES)["nodes"]
        except ConfigError:
            return []
        return nodes

    def deploy(self, config: dict[str, Any]) -> list[str]:
        """Declare what is to run: what is not in `config` goes. Returns warnings.

        Raises:
            ConfigError: the API refuses the config.
            NotRunningError: nothing answers there.
        """
        answer = self._request("PUT", config) or {}
        return list(answer.get("warnings", []))

    def delete_applications(self) -> None:
        """Delete all applications.

        Raises:
            NotRunningError: nothing answers there.
        """
        self._request("DELETE")

    def history(self, name: str) -> dict[str, Any]:
        """What has been deployed as an application, newest first, and to which deploy a rollback returns.

        Raises:
            ConfigError: there is no such application.
            NotRunningError: nothing answers there.
        """
        history: dict[str, Any] = self._request("GET", path=f"{_OURS}{urllib.parse.quote(name, safe='')}/history")
        return history

    def rollback(self, name: str, to: int | None) -> int:
        """Return to an earlier deploy, None for the last good one. Returns its number.

        Raises:
            ConfigError: there is no such application or deploy.
            NotRunningError: nothing answers there.
        """
        path = f"{_OURS}{urllib.parse.quote(name, safe='')}/rollback"
        return int(self._request("POST", {} if to is None else {"to": to}, path)["rolled_back_to"])

    def logs(self, query: Mapping[str, str | int | float]) -> Iterator[dict[str, Any]]:
        """Entries of logs as they come; first of all, one with `not_shown`, the machines whose logs are not among them.

        Raises:
            ConfigError: there is no such log, or something in `query` is wrong.
            NotRunningError: nothing answers there, or nothing any more.
        """
        path = f"{_LOGS}?{urllib.parse.urlencode(query)}"
        with self._open("GET", None, path) as response:
            try:
                for line in response:
                    if line.strip():
                        yield json.loads(line)
            except ValueError:
                raise HeadraceError(f"what answers at {self.address} is not Headrace's REST API") from None
            except (http.client.HTTPException, OSError) as error:
                raise NotRunningError(f"the connection to {self.address} broke off: {error}") from None

    def status(self) -> dict[str, Any]:
        """An `InstanceStatus`: every process of the instance, with its pid and machine.

        Raises:
            NotRunningError: nothing answers there.
        """
        status: dict[str, Any] = self._request("GET", path="/api/headrace/status")
        return status

    def metrics(self) -> str:
        """What Prometheus is told, of the machine that the API is on.

        Raises:
            NotRunningError: nothing answers there.
        """
        return self._content("GET", path="/metrics").decode()

    def stacks(self, kind: str, name: str = "") -> dict[str, Any]:
        """`ProcessStacks`: what the threads and tasks of a process are at.

        Args:
            kind: `replicas`, `proxies` or `controller`.
            name: id of the replica, or name of the proxy.

        Raises:
            ConfigError: there is no such process.
            SilentProcessError: it does not answer; the message says why, as far as the system tells.
            NotRunningError: nothing answers there.
        """
        path = "/".join(filter(None, (f"/api/headrace/{kind}", urllib.parse.quote(name, safe=""), "stacks")))
        stacks: dict[str, Any] = self._request("GET", path=path)
        return stacks

    def own_node(self, status: dict[str, Any]) -> str | None:
        """What this machine is called among those of the instance; None if it is not one of them."""
        folder = self._session.dir if self._session is not None else Path(status["session"])
        try:
            found = json.loads((folder / "session.json").read_text())
        except (OSError, ValueError):
            return None
        # On one machine there is one root; those of a cluster's machines are known by their names.
        of_instance = found.get("cluster") or found.get("pid") == status["root_pid"]
        return str(found.get("node", "")) if of_instance else None

    def _request(self, method: str, body: dict[str, Any] | None = None, path: str = _APPLICATIONS) -> Any:
        content = self._content(method, body, path)
        try:
            return json.loads(content) if content.strip() else None
        except ValueError:
            raise HeadraceError(f"what answers at {self.address} is not Headrace's REST API") from None

    def _content(self, method: str, body: dict[str, Any] | None = None, path: str = _APPLICATIONS) -> bytes:
        with self._open(method, body, path) as response:
            try:
                return bytes(response.read())
            except (http.client.HTTPException, OSError) as error:
                raise NotRunningError(f"the connection to {self.address} broke off: {error}") from None

    def _open(self, method: str, body: dict[str, Any] | None, path: str) -> http.client.HTTPResponse:
        """Ask, and return the answer to be read where it is none of an error."""
        if self._session is not None and (why := self._session.controller_error) is not None:
            raise HeadraceError(f"the controller of the instance cannot start: {why}")
        request = urllib.request.Request(
            self.address + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers=self._headers,
        )
        try:
            opened: http.client.HTTPResponse = self._opener.open(request, timeout=self._timeout_s)
            return opened
        except urllib.error.HTTPError as error:
            # The token lies in the session folder from when on the API answers, and not before.
            if error.code == 401 and self._found_token():
                return self._open(method, body, path)
            text = _message_in(error.read())
            if error.code in (401, 403):
                raise HeadraceError(
                    f"{self.address} refuses access: {text}\n"
                    f"Set {TOKEN_VARIABLE}, or name another instance with --address."
                ) from None
            if 400 <= error.code < 500:
                raise ConfigError(text or f"{self.address} refuses: {error.code} {error.reason}") from None
            if error.code == 504:
                raise SilentProcessError(text) from None
            raise HeadraceError(f"{self.address} answers {error.code} {error.reason}. {text}".rstrip()) from None
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = getattr(error, "reason", error)
            raise NotRunningError(
                f"nothing answers at {self.address} ({reason}).\n"
                "Start an instance with 'headrace start', or name another one with --address."
            ) from None


def _message_in(content: bytes) -> str:
    """What a body says is wrong, in the forms that errors have: `{"error": …}`, `{"detail": …}`, or plain text."""
    text = content.decode(errors="replace").strip()
    try:
        body = json.loads(text)
    except ValueError:
        return text
    if isinstance(body, dict) and len(body.get("problems") or []) > 1:
        return "\n".join(f"{problem['field']}: {problem['reason']}" for problem in body["problems"])
    if isinstance(body, dict):
        body = body.get("error") or body.get("detail") or body.get("message") or body
    return body if isinstance(body, str) else json.dumps(body)
