"""The root of an instance on one machine: the parent of all its processes.

It opens the listening sockets, forks everything else from its warm image, starts again what must not die, and ends
everything under it when it is told to or when its driver ends. It has one thread, runs no user code and holds no
serving state. Started as a program of its own, it reads a `RootConfig` from standard input, as JSON, and writes one
line to standard output, a `RootAnswer`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Started by its path, so that it is found however the driver found the package.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

import msgspec

from headrace.engine import commands, orphans, prctl, session
from headrace.engine.children import Children
from headrace.engine.command_server import CommandServer
from headrace.engine.guardian import Guardian
from headrace.engine.listeners import listen_tcp, listen_unix
from headrace.engine.process import ProcessSpec
from headrace.engine.root_config import RootAnswer, RootConfig
from headrace.exceptions import StartupError

_GRACE_WITHOUT_DRIVER_S = 0.5
_DRIVER_POLL_S = 0.2
_OPEN_FILES = 65_536


class Root:
    """One instance. Made, it accepts connections; `run` starts the processes and returns when all have ended.

    Raises:
        StartupError: a port is in use, the session folder cannot be made, …
    """

    def __init__(self, config: RootConfig) -> None:
        self._config = config
        self._grace_s: float | None = None  # set when the end has come
        self._is_child_of_driver = os.getppid() == config.driver_pid
        self._driver: int | None = None  # descriptor that tells its end
        # On a cluster the controller is elsewhere, and a gate takes its place here.
        self._front = "controller" if config.gate_host is None else "gate"
        self._shared: dict[str, dict[str, socket.socket]] = {self._front: {}, "proxy": {}}
        http = gate = None
        if config.gate_host is not None:
            listener = listen_tcp(config.gate_host, config.gate_port, "the cluster's other machines", "gate_port")
            self._shared[self._front]["gate"] = listener
            gate = (config.gate_host, listener.getsockname()[1])
        if config.http_host is not None:
            listener = listen_tcp(
                config.http_host, config.http_port, "HTTP", config.http_port_option, config.http_port_fallback
            )
            self._shared["proxy"]["http"] = listener
            http = (config.http_host, listener.getsockname()[1])
        listener = listen_tcp(
            config.rest_host, config.rest_port, "the REST API", config.rest_port_option, config.rest_port_fallback
        )
        self._shared[self._front]["rest"] = listener
        rest = (config.rest_host, listener.getsockname()[1])
        folder, secret, self._locks = session.create(
            None if config.session_dir is None else Path(config.session_dir),
            secret=None if config.secret is None else bytes.fromhex(config.secret),
            keep=config.keep,
        )
        self.session = session.Session(
            dir=folder,
            secret=secret,
            root_pid=os.getpid(),
            http=http,
            rest=rest,
            started_at=time.time(),
            detached=config.detached,
            engine=config.engine,
            node=config.node,
            zone=config.zone,
            gate=gate,
            cluster=config.cluster,
        )
        try:
            self._commands_socket = listen_unix(session.socket_path(folder, "root.sock"))
            # Listens before the answer: who reads the answer connects at once.
            self._controller_socket = listen_unix(session.socket_path(folder, "controller.sock"))
            session.publish(self.session)
        except BaseException:
            session.remove(folder)
            raise

    def guard(self) -> None:
        """Have somebody there who tidies up, before anybody hears of this instance: it may be killed at any moment."""
        self._guardian = Guardian()
        keeper = self._config.driver_pid if self._config.keep else None
        self._guardian.start(self.session.dir, self._close_before_the_start, keeper)

    def _close_before_the_start(self) -> None:
        for listener in (*(s for named in self._shared.values() for s in named.values()), self._commands_socket):
            listener.close()
        self._controller_socket.close()
        self._guardian.close()
        for lock in self._locks:
            os.close(lock)
        # Whoever waits for the answer shall see the end of it.
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        os.close(nothing)

    def run(self) -> None:
        """Start the controller and the proxies, serve commands, and end everything at the end."""
        self._signals_in, self._signals_out = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        try:
            self._catch_signals()
            self._watch_driver()
            self._start()
            session.sweep()
            self._serve()
        finally:
            self._stop()

    def _catch_signals(self) -> None:
        self._signals_in.setblocking(False)
        self._signals_out.setblocking(False)
        signal.set_wakeup_fd(self._signals_out.fileno())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the number comes through the socket
        self._selector.register(self._signals_in, selectors.EVENT_READ, lambda _: self._on_signals())

    def _watch_driver(self) -> None:
        driver = self._config.driver_pid
        if driver is None or not hasattr(os, "pidfd_open"):
            return
        try:
            self._driver = os.pidfd_open(driver)
        except ProcessLookupError:
            self._on_driver_end()
            return
        except OSError:
            return  # a kernel before 5.3; `_serve` looks again and again
        self._selector.register(self._driver, selectors.EVENT_READ, lambda _: self._on_driver_end())

    def _start(self) -> None:
        """Start the processes, each as soon as what it runs is imported, and warm up for those to come."""
        prctl.adopt_orphans()
        prctl.name_process("headrace:root")
        own = self.session
        self._children = Children(
            own.dir, own.secret, self._shared, self._close, self._guardian, node=own.node, zone=own.zone
        )
        self._children.adopt_listener(self._front, self._controller_socket)
        self._commands = CommandServer(self._commands_socket, self._selector, self._on_request, self._children.exits)
        sys.path.extend(path for path in self._config.sys_path if path not in sys.path)
        gc.disable()  # nearly everything that imports make stays
        for spec in self._first_processes():
            self._warm_up([spec.entry.partition(":")[0]])
            self._children.start(spec)
        self._warm_up(self._config.warm)
        gc.enable()

    def _warm_up(self, modules: Iterable[str]) -> None:
        """Import once what several processes need, into memory that they will share."""
        for module in modules:
            # Who needs it says why it cannot be imported.
            with contextlib.suppress(Exception):
                importlib.import_module(module)
        # A collection in a child would write to what it looks at, and so copy the pages.
        gc.freeze()

    def _first_processes(self) -> list[ProcessSpec]:
        config = self._config
        args = {"instance": config.instance, "http": self.session.http, "rest": self.session.rest}
        front = ProcessSpec(
            name=self._front,
            role=self._front,
            entry=config.controller_entry,
            args=args,
            listen="controller.sock",
            restart=True,
        )
        proxies = [
            ProcessSpec(
                name=f"proxy-{index}",
                role="proxy",
                entry=config.proxy_entry,
                args={**args, "index": index},
                restart=True,
            )
            for index in range(config.num_proxies if self.session.http else 0)
        ]
        return [front, *proxies]

    def _close(self) -> None:
        """Close, in a new process, what is the root's own; the locks too, which would be held on to after its end."""
        self._commands.close()
        self._guardian.close()
        self._selector.close()
        self._signals_in.close()
        self._signals_out.close()
        for lock in self._locks:
            os.close(lock)
        if self._driver is not None:
            os.close(self._driver)

    def _close_in_guardian(self) -> None:
        self._children.close_listeners()
        self._close()

    def _serve(self) -> None:
        poll = self._config.driver_pid is not None and self._driver is None
        while self._grace_s is None:
            timeout = self._children.seconds_to_restart()
            if poll:
                timeout = _DRIVER_POLL_S if timeout is None else min(timeout, _DRIVER_POLL_S)
                if not self._driver_lives():
                    self._on_driver_end()
                    return
            for key, events in self._selector.select(timeout):
                key.data(events)
            self._children.restart_due()

    def _on_signals(self) -> None:
        numbers = self._received_signals()
        if numbers & {signal.SIGTERM, signal.SIGINT}:
            self._grace_s = self._config.grace_s
        for exited in self._children.reap():
            self._commands.publish(exited)
        if self._guardian.pid is None and self._grace_s is None:
            self._replace_guardian()

    def _start_guardian(self) -> None:
        keeper = self._config.driver_pid if self._config.keep else None
        self._guardian.start(self.session.dir, self._close_in_guardian, keeper)

    def _replace_guardian(self) -> None:
        with contextlib.suppress(OSError):  # no room for a process: tried again when the next one ends
            self._start_guardian()
            for process in self._children.info():
                self._guardian.started(process.pid)

    def _received_signals(self) -> set[int]:
        with contextlib.suppress(BlockingIOError):
            return set(self._signals_in.recv(4096))
        return set()

    def _driver_lives(self) -> bool:
        driver = self._config.driver_pid
        assert driver is not None
        if self._is_child_of_driver:
            return os.getppid() == driver
        try:
            os.kill(driver, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    def _on_driver_end(self) -> None:
        self._grace_s = min(self._config.grace_s, _GRACE_WITHOUT_DRIVER_S)

    def _on_request(self, request: Any) -> Any:
        match request:
            case commands.Start():
                return self._children.start(request.spec)
            case commands.Kill():
                return self._children.kill(request.name, request.signal)
            case commands.Inspect():
                return [self._children.inspect(request.name)]
            case commands.ListProcesses():
                return self._children.info()
            case commands.StopProxies():
                for listener in self._shared["proxy"].values():
                    listener.close()
                self._children.retire("proxy")
            case commands.Shutdown():
                self._grace_s = self._config.grace_s
        return None

    def _stop(self) -> None:
        for named in self._shared.values():  # refused at once is better than never answered
            for listener in named.values():
                listener.close()
        if hasattr(self, "_children"):
            self._children.stop(self._grace_s or 0.0, self._wait_for_signal)
        if self._config.keep:
            # Of processes that were not this one's children.
            orphans.end_of_session(self.session.name)
        session.remove(self.session.dir)
        self._guardian.dismiss()

    def _wait_for_signal(self, timeout_s: float) -> bool:
        """Wait for the end of a child; False if somebody who has no patience signals again."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._signals_in, selectors.EVENT_READ)
            selector.select(timeout_s)
        return not self._received_signals() & {signal.SIGTERM, signal.SIGINT}


def _redirect(config: RootConfig, folder: Path) -> None:
    """Give standard input, output and error to what the processes of the instance shall have."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    if config.detached:
        log = os.open(folder / "logs" / "headrace.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    elif config.stdout_fd is not None:
        os.dup2(config.stdout_fd, 1)
        os.close(config.stdout_fd)
    else:
        os.dup2(2, 1)
    # What user code prints shall appear when it is printed, also in a file.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)


def _allow_many_open_files() -> None:
    """A proxy needs one per connection, and the usual limit of 1,024 is a default, not a need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> int:
    """Run a root; returns its exit status."""
    try:
        config = msgspec.json.decode(sys.stdin.buffer.read(), type=RootConfig)
        root = Root(config)
    except (StartupError, msgspec.DecodeError) as error:
        _write_answer(RootAnswer(error=str(error)))
        return 1
    own = root.session
    try:
        root.guard()
        _write_answer(RootAnswer(session_dir=str(own.dir), http=own.http, rest=own.rest, pid=own.root_pid))
        _redirect(config, own.dir)
    except OSError:  # whoever asked has gone
        session.remove(own.dir)
        return 1
    _allow_many_open_files()
    root.run()
    return 0


def _write_answer(answer: RootAnswer) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
