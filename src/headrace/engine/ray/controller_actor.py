"""The controller of an instance on a cluster, as a Ray actor that Ray starts again wherever there is room."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import ray
import uvloop

from headrace.engine import session
from headrace.engine.listeners import listen_unix
from headrace.engine.process import ProcessContext
from headrace.engine.ray import kv
from headrace.engine.ray.agents import agent_of, is_head
from headrace.engine.ray.placing import preferring
from headrace.engine.ray.records import (
    CONTROLLER,
    CONTROLLER_SOCKET,
    ENDING,
    REST_SOCKET,
    SESSION,
    ControllerRecord,
    NodeRecord,
    SessionRecord,
)
from headrace.engine.ray.teardown import tear_down
from headrace.exceptions import StartupError
from headrace.wire.address import tcp_address

logger = logging.getLogger("headrace.controller")

SERVE = "headrace.controller.main:serve"
"""By name, since an engine knows nothing of the controller."""

ENGINE = "headrace.engine.ray.ray_engine:connect"
AGENT_S = 120.0
_PAUSE_S = 3.0
"""Before Ray starts it again when it could not start, or broke."""


class ControllerActor:
    """Ray calls nothing but the constructor when it starts an actor again, so that has to begin everything.

    The controller has a thread of its own: the main thread answers Ray.
    """

    def __init__(self) -> None:
        threading.Thread(target=self._control, name="controller", daemon=True).start()

    def ready(self) -> None:
        """Answers once the actor is there."""

    def _control(self) -> None:
        try:
            if kv.get(ENDING) is not None:  # the one before this had begun to
                tear_down()
            uvloop.run(self._serving())
        except StartupError as error:
            logger.error("the controller cannot start: %s", error)
            self._tell(error)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(_PAUSE_S)  # nobody to wait for: this only keeps Ray from starting it all the time
        os._exit(1)

    def _serving(self) -> Coroutine[Any, Any, None]:
        instance = kv.get_record(SESSION, SessionRecord)
        if instance is None:
            raise StartupError("there is no instance on this cluster (any more)")
        node = self._own_node()
        assert node.gate is not None, "a machine has a gate where it has no error"
        folder = Path(node.session_dir)
        listeners = {"wire": listen_unix(session.socket_path(folder, CONTROLLER_SOCKET))}
        listeners["rest"] = listen_unix(session.socket_path(folder, REST_SOCKET))
        record = ControllerRecord(node=node.node, address=tcp_address(*node.gate))
        kv.put_record(CONTROLLER, record)
        args = {"instance": instance.instance, "http": node.http, "rest": node.rest, "engine": ENGINE}
        module, _, function = SERVE.partition(":")
        serve: Callable[[ProcessContext], Coroutine[Any, Any, None]] = getattr(
            importlib.import_module(module), function
        )
        return serve(ProcessContext("controller", args, folder, instance.secret, listeners))

    def _own_node(self) -> NodeRecord:
        """This machine's addresses, once its agent has brought up a root."""
        context = ray.get_runtime_context()
        nodes = ray.nodes()
        own = next(node for node in nodes if node["NodeID"] == context.get_node_id())
        agent = agent_of(own, nodes, context.gcs_address)
        record: NodeRecord = ray.get(agent.tend.remote(), timeout=AGENT_S)
        if record.error is not None:
            raise StartupError(record.error)
        return record

    def _tell(self, error: StartupError) -> None:
        """For clients on every machine, who would wait in vain."""
        with contextlib.suppress(Exception):
            nodes = ray.nodes()
            record = ControllerRecord(node="", address="", error=str(error))
            cluster = ray.get_runtime_context().gcs_address
            telling = [agent_of(node, nodes, cluster).tend.remote(record) for node in nodes if node["Alive"]]
            ray.wait(telling, num_returns=len(telling), timeout=10.0)


def actor_options(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    """What Ray is told of it: it prefers the head, and runs elsewhere where that is gone."""
    head = next((node["NodeID"] for node in nodes if node["Alive"] and is_head(node)), None)
    options: dict[str, Any] = {
        "name": "controller",
        "namespace": kv.NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
    }
    return options if head is None else {**options, **preferring(head)}
