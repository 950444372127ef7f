"""An instance on a Ray cluster, as who starts, finds or ends it sees it: a script, a notebook, the command line."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import ray
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined, unused-ignore]

from headrace.engine.ray import kv, pids
from headrace.engine.ray.agents import agent_of
from headrace.engine.ray.controller_actor import ControllerActor, actor_options
from headrace.engine.ray.records import (
    CONTROLLER,
    ENDING,
    NODE,
    SESSION,
    ControllerRecord,
    Driver,
    NodeRecord,
    SessionRecord,
)
from headrace.engine.ray.teardown import instance_actors, tear_down
from headrace.engine.session import Session
from headrace.exceptions import NotRunningError, StartupError

logger = logging.getLogger("headrace")

ADDRESS_VARIABLE = "HEADRACE_RAY_ADDRESS"
READY_S = 120.0
"""How long an instance may take to be there. The first process of a job on a machine may need an environment made."""

_AUTH_VARIABLE = "RAY_AUTH_MODE"
_LOOK_EVERY_S = 0.05
_ENDED_WITHIN_S = 40.0
_LAST_ACTORS_S = 10.0
_LAST_AGENT_S = 5.0
"""For how long the agent of an instance that has ended may still have its name."""


class Wanted(msgspec.Struct, kw_only=True):
    """An instance to start, should there be none.

    Attributes:
        instance: an InstanceConfig as a dict.
        rest_port_given: somebody chose the REST port, so that taking another one would surprise.
        rest_token: what the REST API asks for where it serves other machines too.
        detached: it serves on when this process has ended.
    """

    instance: dict[str, Any]
    rest_port_given: bool = False
    rest_token: str | None = None
    detached: bool = True


class RayInstance:
    """An instance that this process has started, and that ends with it.

    Attributes:
        session: this machine's session folder.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def pid(self) -> int:
        return self.session.root_pid

    @property
    def alive(self) -> bool:
        return self.session.alive

    def stop(self, timeout_s: float = 10.0) -> None:
        """Wait until the instance has ended, `timeout_s` seconds at most; then end it. May be repeated."""
        stop(self.session, timeout_s)


class PendingInstance:
    """An instance that is being found or started; other work can be done before `wait`."""

    def __init__(self, address: str | None, wanted: Wanted) -> None:
        self._wanted = wanted
        connect(address, log_to_driver=not wanted.detached)

    def wait(self) -> tuple[Session, RayInstance | None]:
        """
        Returns:
            This machine's part of the instance; and the instance as this process's own if it was started for it alone.

        Raises:
            StartupError: it cannot start.
        """
        session, started = begin(self._wanted)
        return session, RayInstance(session) if started and not self._wanted.detached else None

    def give_up(self) -> None:
        """Nothing has been started yet."""


def connect(address: str | None = None, log_to_driver: bool = True) -> None:
    """Connect this process to a cluster, unless it is connected.

    Args:
        address: as `ray.init` takes it; None for `$HEADRACE_RAY_ADDRESS`, `$RAY_ADDRESS`, or the cluster that runs on
            this machine.

    Raises:
        StartupError: there is no cluster, or this machine is not part of it.
    """
    if ray.is_initialized():
        return
    address = address or os.environ.get(ADDRESS_VARIABLE) or "auto"
    if address.startswith("ray://"):
        raise StartupError(
            f"address: {address!r} is a Ray client's, and this process must run on a machine of the cluster; start it "
            "there, or send it with 'ray job submit'"
        )
    try:
        with _own_signal_handlers():
            ray.init(
                address=address, namespace=kv.NAMESPACE, logging_level=logging.WARNING, log_to_driver=log_to_driver
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = "on this machine" if address == "auto" else f"at {address}"
        # To an address that somebody names, Ray sends its token only when told so.
        token = (
            ""
            if address == "auto" or _AUTH_VARIABLE in os.environ
            else f"If it has a token, set {_AUTH_VARIABLE}=token. "
        )
        raise StartupError(
            f"no Ray cluster can be reached {where}: {error}. {token}Start one with 'ray start --head', join one with "
            f"'ray start --address HOST:6379', or name another with address= or ${ADDRESS_VARIABLE}"
        ) from error


@contextlib.contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """What this process does when it is told to end is not Ray's affair."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def job_runtime_env() -> dict[str, Any]:
    """The runtime environment of this process's job, as `ray job submit --runtime-env` or `ray.init` were told."""
    if not ray.is_initialized():
        return {}
    environment = ray.get_runtime_context().runtime_env
    known = {name: value for name, value in dict(environment or {}).items() if not name.startswith("_")}
    return {name: value for name, value in known.items() if value and name != "config"}


def find(address: str | None = None) -> Session | None:
    """This machine's part of the instance on the cluster; None if there is none.

    Raises:
        StartupError: no cluster can be reached.
    """
    connect(address)
    if not _has_instance():
        return None
    try:
        return _here(_own_node_record())
    except StartupError:
        if not _has_instance():  # it has just ended
            return None
        raise


def _has_instance() -> bool:
    # In this order: what ends an instance removes this mark last.
    return kv.get(ENDING) is None and kv.get_record(SESSION, SessionRecord) is not None


def begin(wanted: Wanted) -> tuple[Session, bool]:
    """Find the instance on the cluster, or start it. Returns when it answers.

    Returns:
        This machine's part of it, and whether it was started now.

    Raises:
        StartupError: it cannot start. Nothing is left of it then.
    """
    deadline = time.monotonic() + READY_S
    _wait_for_the_last_to_end(deadline)
    record = SessionRecord(
        name=secrets.token_hex(4),
        secret=secrets.token_bytes(32),
        instance=wanted.instance,
        rest_port_fallback=not wanted.rest_port_given,
        sessions_dir=os.environ.get("HEADRACE_SESSIONS") or None,
        rest_token=wanted.rest_token,
        driver=None if wanted.detached else _this_process(),
        sys_path=[os.path.abspath(path) for path in sys.path],
    )
    started = kv.put_new_record(SESSION, record)
    try:
        node = _own_node_record()
        ray.remote(ControllerActor).options(**actor_options(ray.nodes())).remote()
        session = _here(node)
        _wait_for_controller(session, deadline)
    except BaseException as error:
        if started:
            with contextlib.suppress(Exception):
                tear_down(0.0)
        if isinstance(error, ray.exceptions.RayError):
            raise StartupError(f"the instance cannot start on the cluster: {error}") from error
        raise
    return session, started


def _wait_for_the_last_to_end(deadline: float) -> None:
    """Until nothing is left of an instance that is being ended, its last actors included: they have the same names."""
    began = time.monotonic()
    while True:
        ended = kv.get(SESSION) is None
        if kv.get(ENDING) is None and not (ended and instance_actors()):
            return
        if time.monotonic() - began > (_LAST_ACTORS_S if ended else _ENDED_WITHIN_S):
            tear_down(0.0)  # who had begun to has died over it
            began = time.monotonic()
        if time.monotonic() > deadline:
            raise StartupError("the instance that ran on the cluster before does not end")
        threading.Event().wait(_LOOK_EVERY_S)


def _own_node_record() -> NodeRecord:
    """This machine's addresses, once its agent has brought up a root.

    Raises:
        StartupError: it cannot.
    """
    own = ray.get_runtime_context().get_node_id()
    nodes = ray.nodes()
    node = next(each for each in nodes if each["NodeID"] == own)
    deadline = time.monotonic() + _LAST_AGENT_S
    while True:
        agent = agent_of(node, nodes, ray.get_runtime_context().gcs_address)
        try:
            controller = kv.get_record(CONTROLLER, ControllerRecord)
            record: NodeRecord = ray.get(agent.tend.remote(controller), timeout=READY_S)
        except ray.exceptions.RayError as error:
            if isinstance(error, ray.exceptions.ActorDiedError) and time.monotonic() < deadline:
                # The last instance's, which has just ended: its name was taken a moment longer.
                threading.Event().wait(_LOOK_EVERY_S)
                continue
            raise StartupError(f"the agent of this machine cannot start: {error}") from error
        if record.error is not None:
            raise StartupError(record.error)
        return record


def _here(node: NodeRecord) -> Session:
    try:
        return Session.load(node.session_dir)
    except NotRunningError as error:
        raise StartupError(
            f"the session folder of the instance, {node.session_dir}, cannot be read: {error}. This process must run "
            "on a machine of the cluster, as the user that Ray runs as, and see the same files"
        ) from error


def _wait_for_controller(session: Session, deadline: float) -> None:
    while kv.get(CONTROLLER) is None:
        why = session.controller_error
        if why is not None:
            raise StartupError(f"the controller cannot start: {why}")
        if time.monotonic() > deadline:
            raise StartupError(
                f"the controller did not start within {READY_S:g} s; its log is among Ray's, as ControllerActor's"
            )
        threading.Event().wait(_LOOK_EVERY_S)


def _this_process() -> Driver:
    pid = os.getpid()
    return Driver(node=ray.get_runtime_context().get_node_id(), pid=pid, started=pids.started(pid))


def stop(session: Session, timeout_s: float = 10.0) -> None:
    """Wait until an instance that was asked to end has ended, `timeout_s` seconds at most; then end it by force."""
    deadline = time.monotonic() + timeout_s
    while session.dir.exists():
        if time.monotonic() > deadline:
            if AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
                os.environ.setdefault(_AUTH_VARIABLE, "token")  # nobody else has written the address down
            connect(session.cluster)
            record = kv.get_record(NODE + session.node, NodeRecord)
            if record is None or Path(record.session_dir) == session.dir:
                tear_down(0.0)
            return
        threading.Event().wait(_LOOK_EVERY_S)
