"""What happens in a new process between the fork and its entry, and at its end."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any, NoReturn

from headrace.engine import orphans, prctl
from headrace.engine.process import ProcessContext, ProcessSpec

_OOM_SCORE = "300"


def become(spec: ProcessSpec, context: ProcessContext, root_pid: int) -> NoReturn:
    """Turn a fresh fork of the root, with all of the root's own files closed, into the process of `spec`."""
    status = 1
    try:
        _leave_the_root_behind(spec, context, root_pid)
        status = _run(spec, context)
    except BaseException:
        traceback.print_exc()
    finally:
        # Never back into the root's code, whatever happened.
        os._exit(status)


def _leave_the_root_behind(spec: ProcessSpec, context: ProcessContext, root_pid: int) -> None:
    # A group of its own, so that what it starts can be ended with it, and a terminal's Ctrl-C is the driver's affair.
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _end_with_the_root(context, root_pid)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    prctl.name_process(f"headrace:{spec.role}")
    if spec.role in ("replica", "builder", "policy"):
        _be_the_first_to_go_without_memory()
    orphans.mark_descendants(context.session_dir.name)
    os.environ.update(spec.env)
    if spec.cwd is not None:
        os.chdir(spec.cwd)
    # The root's main module is not this process's; multiprocessing would import it in what user code spawns.
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = [f"headrace:{spec.name}"]
    gc.enable()


def _end_with_the_root(context: ProcessContext, root_pid: int) -> None:
    if prctl.die_with_parent(signal.SIGKILL):
        if os.getppid() != root_pid:  # it ended before we could ask
            os._exit(1)
    elif context.lifeline is not None:
        threading.Thread(target=watch_lifeline, args=(context.lifeline,), name="lifeline", daemon=True).start()


def watch_lifeline(lifeline: int) -> None:
    """End this process and its group when the other end of the pipe is closed, which nobody ever writes to."""
    while os.read(lifeline, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def _be_the_first_to_go_without_memory() -> None:
    """If memory runs out, a replica goes rather than the root: one is replaced, with the other all would end."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(_OOM_SCORE)


def _run(spec: ProcessSpec, context: ProcessContext) -> int:
    status = 0
    try:
        _find(spec.entry)(context)
    except SystemExit as exit:
        status = _exit_status(exit.code)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        # What the interpreter does at its end, except taking itself apart: that takes long and is of no use here.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
    return status


def _find(entry: str) -> Callable[[ProcessContext], Any]:
    module, _, function = entry.partition(":")
    found: Callable[[ProcessContext], Any] = getattr(importlib.import_module(module), function)
    return found


def _exit_status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1
