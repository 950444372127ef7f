"""The entry of the process that builds applications for the controller, which never runs user code itself."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol

from headrace.build import build_application
from headrace.config.schema import ServeApplicationSchema
from headrace.config.spec import ApplicationSpec, BuildOutcome
from headrace.exceptions import ApplicationBuildError, HeadraceError
from headrace.import_path import load_application
from headrace.wire.rpc import RpcServer

_LAST_WORDS_S = 0.1


class BuildProcess(Protocol):
    """What is used of the engine's `ProcessContext`."""

    @property
    def args(self) -> Mapping[str, Any]: ...
    @property
    def secret(self) -> bytes: ...
    @property
    def listeners(self) -> Mapping[str, socket.socket]: ...


def main(process: BuildProcess) -> None:
    """Builds `args["application"]`, a dict as `ServeApplicationSchema` takes it, and tells who asks for the `outcome`.

    Its environment variables are those of this process already. Returns when it is told to `end`.
    """
    outcome: Future[BuildOutcome] = Future()
    end = threading.Event()

    async def tell_outcome() -> BuildOutcome:
        return await asyncio.shield(asyncio.wrap_future(outcome))

    async def tell_to_end() -> None:
        # Once this is answered.
        asyncio.get_running_loop().call_later(_LAST_WORDS_S, end.set)

    async def serve() -> None:
        server = RpcServer({"outcome": tell_outcome, "end": tell_to_end})
        # Kept in a variable: this loop may be uvloop's, which closes a server that nobody refers to.
        serving = await server.start(process.listeners["wire"], process.secret)
        await asyncio.get_running_loop().create_future()
        serving.close()

    # User code runs on the main thread, and without an event loop, as in a script.
    threading.Thread(target=asyncio.run, args=(serve(),), name="headrace-outcome", daemon=True).start()
    outcome.set_result(build(process.args["application"]))
    end.wait()


def build(application: Mapping[str, Any]) -> BuildOutcome:
    """Builds one application in its working directory."""
    try:
        return BuildOutcome(ok=_build(application))
    except HeadraceError as error:
        return BuildOutcome(error=readable(error))
    except Exception as error:  # ours, or raised by user code at a place where nothing of it was expected
        return BuildOutcome(error="".join(traceback.format_exception(error)).rstrip())


def _build(application: Mapping[str, Any]) -> ApplicationSpec:
    schema = ServeApplicationSchema(**application)
    with in_folder(schema.runtime_env.folder):
        return build_application(
            load_application(schema.import_path, schema.args),
            name=schema.name,
            route_prefix=schema.route_prefix,
            runtime_env=schema.runtime_env,
            config=dict(application),
            overrides=schema.deployments,
            logging_config=schema.logging_config,
            request_timeout_s=schema.request_timeout_s,
            external_scaler_enabled=schema.external_scaler_enabled,
            autoscaling_policy=schema.autoscaling_policy,
        )


@contextmanager
def in_folder(folder: str | None) -> Iterator[None]:
    """Works in `folder`, whose modules are found first, and forgets them afterwards.

    Two applications may each have a module `app` in a folder of their own.
    """
    old_folder, old_path, old_modules = os.getcwd(), sys.path.copy(), set(sys.modules)
    if folder is not None:
        try:
            os.chdir(folder)
        except OSError as error:
            raise HeadraceError(f"runtime_env.working_dir: cannot change to {folder!r}: {error.strerror}") from None
    sys.path.insert(0, os.getcwd())
    prefix = os.path.join(os.path.realpath(os.getcwd()), "")
    try:
        yield
    finally:
        os.chdir(old_folder)
        sys.path[:] = old_path
        for name in sys.modules.keys() - old_modules:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and os.path.realpath(file).startswith(prefix):
                del sys.modules[name]


def readable(error: BaseException) -> str:
    """The message, followed by the user's own part of the traceback where user code raised."""
    cause = error.__cause__
    if cause is None or not isinstance(error, ApplicationBuildError):
        return str(error)
    frames = traceback.extract_tb(_after_ours(cause.__traceback__))
    lines = [*traceback.format_list(frames), *traceback.format_exception_only(cause)]
    return f"{error}\n\n{''.join(lines)}".rstrip()


def _after_ours(tb: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame on that is neither Headrace's nor the import machinery's."""
    package = os.path.join(os.path.dirname(__file__), "")
    while tb is not None:
        file = tb.tb_frame.f_code.co_filename
        if not file.startswith((package, "<frozen importlib", os.path.dirname(os.__file__) + "/importlib")):
            return tb
        tb = tb.tb_next
    return None
