"""The controller's process."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys

import uvloop

from headrace.config.instance import InstanceConfig
from headrace.config.rest_token import TOKEN_VARIABLE
from headrace.controller.controller import Controller
from headrace.controller.rest import RestApi, RestServer
from headrace.controller.rest_guard import TOKEN_FILE, is_loopback, required_token
from headrace.controller.rpc import rpc_server
from headrace.controller.store import Store
from headrace.engine.local import connect as this_machine
from headrace.engine.process import ProcessContext
from headrace.engine.protocol import EngineFactory
from headrace.engine.session import CONTROLLER_ERROR
from headrace.exceptions import ConfigError, StartupError
from headrace.observe.log_files import LoggedProcess
from headrace.observe.logs import configure_logging

logger = logging.getLogger("headrace.controller")


def main(process: ProcessContext) -> None:
    """The entry that the root forks. `args` are those of `serve`."""
    try:
        uvloop.run(serve(process))
    except StartupError as error:
        # For clients, who would wait in vain; nobody may be looking at the log.
        # It is read while it is written, time and again: whole, or not there.
        unfinished = process.session_dir / f"{CONTROLLER_ERROR}.new"
        unfinished.write_text(str(error))
        unfinished.replace(process.session_dir / CONTROLLER_ERROR)
        sys.exit(f"headrace: the controller cannot start: {error}")
    except ConnectionError:
        pass  # the root is gone, and we go with it


async def serve(process: ProcessContext) -> None:
    """Control the instance until the process ends.

    Args:
        process: `args["instance"]` is an `InstanceConfig` as a dict; `args["engine"]` names where processes run, as
            "module:function" of an `EngineFactory`: this machine, if it is not there. It has a listener "wire", and
            "rest" if it serves the REST API.

    Raises:
        StartupError: the state store cannot be read, or there can be no log where it is wanted.
        ConnectionError: the engine is gone, or the state can no longer be kept: another controller is to be started.
    """
    config = InstanceConfig(**process.args.get("instance", {}))
    whose = LoggedProcess("controller", "controller")
    try:
        configure_logging(whose, config.logging.model_dump(mode="json"), process.session_dir / "logs")
    except ConfigError as error:
        raise StartupError(str(error)) from None
    engine = await _factory(process.args.get("engine"))(process, config)
    lost = asyncio.Event()
    store = Store(process.session_dir / "state.db", engine.journal, lost.set)
    (process.session_dir / CONTROLLER_ERROR).unlink(missing_ok=True)
    controller = Controller(engine, process.session_dir, process.secret, store, config)
    # Calls are taken from the first moment on; watchers wait until the running replicas are found.
    listener = await rpc_server(controller).start(process.listeners["wire"], process.secret)
    try:
        await controller.start()
        await _serve_until(lost, controller, process)
    finally:
        listener.close()
        await controller.close()
        store.close()


def _factory(name: str | None) -> EngineFactory:
    if name is None:
        return this_machine
    module, _, function = name.partition(":")
    factory: EngineFactory = getattr(importlib.import_module(module), function)
    return factory


async def _serve_until(lost: asyncio.Event, controller: Controller, process: ProcessContext) -> None:
    """Serve the REST API; raises ConnectionError once the state is `lost`."""
    serving, losing = asyncio.create_task(_serve_rest(controller, process)), asyncio.create_task(lost.wait())
    try:
        await asyncio.wait((serving, losing), return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            raise ConnectionError("the controller's state can no longer be kept")
        serving.result()
    finally:
        serving.cancel()
        losing.cancel()


async def _serve_rest(controller: Controller, process: ProcessContext) -> None:
    listener = process.listeners.get("rest")
    if listener is None:
        await asyncio.Event().wait()
        return
    # What listens here may be the last part of the way only.
    host = (process.args.get("rest") or listener.getsockname())[0]
    token = required_token(host, process.session_dir)
    if token is not None and not is_loopback(host):
        logger.info(
            "the REST API is open to other machines; its token is in $%s or in %s",
            TOKEN_VARIABLE,
            process.session_dir / TOKEN_FILE,
        )
    api = RestApi(controller, token)
    sampling = asyncio.create_task(controller.sampler.run())
    try:
        await RestServer(api.app).serve(listener)
    finally:
        sampling.cancel()
        api.observed.close()
