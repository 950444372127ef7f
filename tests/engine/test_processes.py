"""What the root does for the controller: start, end and watch processes."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.instances import ask, ask_proxy, gone, until
from headrace.engine.local import LocalEngine, RootHandle
from headrace.engine.process import Activity, ProcessExited, ProcessSpec
from headrace.engine.resources import Allocation, Machine, Refusal, ResourceRequest
from headrace.exceptions import StartupError


def replica(name: str = "r1", entry: str = "serve_wire", **options: Any) -> ProcessSpec:
    return ProcessSpec(name=name, role="replica", entry=f"engine_entries:{entry}", **options)


async def next_exits(engine: LocalEngine, count: int, since: int = 0) -> list[ProcessExited]:
    exits = []
    async with asyncio.timeout(10):
        async for exited in engine.exits(since):
            exits.append(exited)
            if len(exits) == count:
                break
    return exits


async def test_a_process_is_what_its_spec_says(engine: LocalEngine, root: RootHandle, tmp_path: Path) -> None:
    spec = replica(args={"n": [1, 2]}, listen="r1.sock", env={"COLOUR": "red"}, cwd=str(tmp_path))
    started = await engine.start(spec)
    pid = started.pid
    facts = ask(root.session.dir / "r1.sock")
    assert facts["pid"] == pid
    assert facts["parent"] == root.pid
    assert facts["name"] == "r1"
    assert facts["args"] == {"n": [1, 2]}
    assert facts["colour"] == "red"
    assert facts["cwd"] == str(tmp_path)
    assert facts["secret"] == root.session.secret.hex()
    [info] = [info for info in await engine.list() if info.name == "r1"]
    assert (info.pid, info.role, info.args) == (pid, "replica", {"n": [1, 2]})
    assert info.listen == str(root.session.dir / "r1.sock")
    assert abs(info.started_at - time.time()) < 10
    assert (info.node, info.zone, info.address) == ("local", "", info.listen)
    assert info.vitals == str(root.session.dir / "r1.vitals")
    assert started == info


async def test_what_the_system_tells_of_a_process_is_told(engine: LocalEngine) -> None:
    started = await engine.start(replica("r1", listen="r1.sock"))
    assert not (await inspected(engine, "r1")).stopped
    os.kill(started.pid, signal.SIGSTOP)
    until(lambda: psutil.Process(started.pid).status() == psutil.STATUS_STOPPED)
    assert (await inspected(engine, "r1")).stopped
    assert await engine.inspect("nobody") is None


async def inspected(engine: LocalEngine, name: str) -> Activity:
    activity = await engine.inspect(name)
    assert activity is not None and activity.cpu_s >= 0
    return activity


async def test_this_machine_is_the_only_node(engine: LocalEngine, root: RootHandle) -> None:
    [node] = await engine.nodes()
    assert (node.node, node.alive, node.head, node.http) == ("local", True, True, root.session.http)
    assert node.resources["CPU"] >= 1


async def test_a_process_leaves_the_root_behind(engine: LocalEngine, root: RootHandle) -> None:
    await engine.start(replica("r1", listen="r1.sock"))
    await engine.start(replica("r2", listen="r2.sock"))
    first, second = ask(root.session.dir / "r1.sock"), ask(root.session.dir / "r2.sock")
    assert first["group"] == first["pid"]
    assert first["listeners"] == ["wire"]
    assert first["threads"] == 1
    assert first["main"] is None
    assert first["blocked"] == []
    assert first["random"] != second["random"]
    for facts in (first, second):
        # Its own listening socket and the connection that asks.
        assert len([name for name in facts["open_files"] if name.startswith("socket:")]) == 2
        assert not [name for name in facts["open_files"] if "epoll" in name or "pidfd" in name or "lock" in name]


def test_processes_may_open_as_many_files_as_the_system_allows_up_to_65536(start: Callable[..., RootHandle]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        limit = ask(start().session.controller_socket)["open_files_limit"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert limit == (65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536))


async def test_the_root_has_one_thread(root: RootHandle) -> None:
    ask(root.session.controller_socket)
    assert psutil.Process(root.pid).num_threads() == 1


def test_controller_and_proxies_inherit_their_sockets(start: Callable[..., RootHandle]) -> None:
    root = start(num_proxies=2, instance={"x": 1})
    facts = ask(root.session.controller_socket)
    assert facts["listeners"] == ["rest", "wire"]
    assert facts["args"]["instance"] == {"x": 1}
    assert root.session.http is not None
    assert facts["args"]["http"] == list(root.session.http)
    assert facts["args"]["rest"] == list(root.session.rest)
    ask_proxy(root.session.http)
    # The guardian, the controller and two proxies.
    until(lambda: len(psutil.Process(root.pid).children()) == 4)


def test_one_can_connect_before_the_process_is_ready(start: Callable[..., RootHandle]) -> None:
    root = start(controller_entry="slow_entries:serve_wire")
    assert len(psutil.Process(root.pid).children()) == 1  # the guardian
    assert ask(root.session.controller_socket)["name"] == "controller"


async def test_starting_a_process_takes_milliseconds(start: Callable[..., RootHandle]) -> None:
    root = start(warm=("asyncio", "uvicorn", "uvloop", "starlette.requests", "pydantic"))
    engine = await LocalEngine.connect(root.session.dir)
    seconds = []
    for i in range(7):
        begun = time.perf_counter()
        await engine.start(replica(f"r{i}", listen=f"r{i}.sock"))
        ask(root.session.dir / f"r{i}.sock")
        seconds.append(time.perf_counter() - begun)
    await engine.close()
    assert min(seconds) < 0.03, seconds


async def test_the_end_of_a_process_is_told_with_its_status_or_signal(engine: LocalEngine) -> None:
    pid = (await engine.start(replica("r1", listen="r1.sock"))).pid
    assert await engine.kill("r1", signal.SIGKILL)
    await next_exits(engine, 1)
    left = (await engine.start(replica("r2", "leave", args={"status": 7}))).pid
    assert await next_exits(engine, 2) == [
        ProcessExited(sequence=1, name="r1", role="replica", pid=pid, signal=signal.SIGKILL),
        ProcessExited(sequence=2, name="r2", role="replica", pid=left, exit_code=7),
    ]
    assert {info.name for info in await engine.list()} == {"controller", "proxy-0"}


async def test_an_end_that_nobody_watched_is_not_lost(engine: LocalEngine, root: RootHandle) -> None:
    for i in range(3):
        await engine.start(replica(f"r{i}", "leave", args={"status": i}))
        await next_exits(engine, i + 1)
    late = await LocalEngine.connect(root.session.dir)
    assert [exited.exit_code for exited in await next_exits(late, 3)] == [0, 1, 2]
    assert [exited.exit_code for exited in await next_exits(late, 1, since=2)] == [2]
    await late.close()


async def test_every_subscriber_is_told(engine: LocalEngine, root: RootHandle) -> None:
    other = await LocalEngine.connect(root.session.dir)
    watching = asyncio.gather(next_exits(engine, 1), next_exits(other, 1))
    await engine.start(replica("r1", "leave", args={"status": 3}))
    [first], [second] = await watching
    assert first == second
    await other.close()


async def test_what_an_entry_raises_is_printed_and_ends_it_with_status_1(
    start: Callable[..., RootHandle], capfd: pytest.CaptureFixture[str]
) -> None:
    engine = await LocalEngine.connect(start().session.dir)
    await engine.start(replica("r1", "fail"))
    [exited] = await next_exits(engine, 1)
    assert exited.exit_code == 1
    assert "ValueError: it cannot work" in capfd.readouterr().err
    await engine.close()


async def test_a_folder_that_is_not_there_is_refused_with_the_reason(engine: LocalEngine) -> None:
    with pytest.raises(StartupError, match=r"'r1' cannot work in /no/such/folder: there is no such folder"):
        await engine.start(replica("r1", cwd="/no/such/folder"))
    assert "r1" not in {process.name for process in await engine.list()}


async def test_exit_handlers_run(engine: LocalEngine, tmp_path: Path) -> None:
    await engine.start(replica("r1", "at_exit", args={"file": str(tmp_path / "f")}))
    await next_exits(engine, 1)
    assert (tmp_path / "f").read_text() == "it ran"


async def test_sockets_of_a_dead_process_refuse_at_once_and_are_removed(engine: LocalEngine, root: RootHandle) -> None:
    await engine.start(replica("r1", listen="r1.sock"))
    vitals = root.session.dir / "r1.vitals"
    socket.socket(socket.AF_UNIX).bind(str(vitals))
    await engine.kill("r1", signal.SIGKILL)
    await next_exits(engine, 1)
    assert not (root.session.dir / "r1.sock").exists()
    assert not vitals.exists()


async def test_what_a_dead_replica_had_started_is_ended(engine: LocalEngine, tmp_path: Path) -> None:
    await engine.start(replica("r1", "start_others", args={"file": str(tmp_path / "pids")}))
    same, away = map(int, until((tmp_path / "pids").exists) and (tmp_path / "pids").read_text().split())
    await engine.kill("r1", signal.SIGKILL)
    until(lambda: gone(same) and gone(away))


async def test_a_living_replica_keeps_what_it_started(engine: LocalEngine, tmp_path: Path) -> None:
    for name in ("r1", "r2"):
        await engine.start(replica(name, "start_others", args={"file": str(tmp_path / name)}))
        until((tmp_path / name).exists)
    await engine.kill("r1", signal.SIGKILL)
    mine = [int(pid) for pid in (tmp_path / "r1").read_text().split()]
    others = [int(pid) for pid in (tmp_path / "r2").read_text().split()]
    until(lambda: all(gone(pid) for pid in mine))
    assert not any(gone(pid) for pid in others)


async def test_names_are_unique_among_the_living(engine: LocalEngine) -> None:
    pid = (await engine.start(replica("r1", listen="r1.sock"))).pid
    with pytest.raises(StartupError, match=rf"a process named 'r1' runs already \(pid {pid}\)"):
        await engine.start(replica("r1", listen="r1.sock"))
    await engine.kill("r1", signal.SIGKILL)
    await next_exits(engine, 1)
    assert (await engine.start(replica("r1", listen="r1.sock"))).pid != pid


async def test_a_signal_to_nobody_is_no_mistake(engine: LocalEngine) -> None:
    assert not await engine.kill("nobody", signal.SIGTERM)


@pytest.mark.parametrize(
    ("listen", "message"), [("../x.sock", "not a file name"), ("x" * 100, "bytes too long"), ("/x", "not a file name")]
)
async def test_a_socket_that_cannot_be_is_refused(engine: LocalEngine, listen: str, message: str) -> None:
    with pytest.raises(StartupError, match=message):
        await engine.start(replica("r1", listen=listen))


async def test_garbage_on_the_roots_socket_closes_that_connection_alone(engine: LocalEngine, root: RootHandle) -> None:
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", struct.pack(">I", 3) + b"abc", struct.pack(">I", 2**31)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(5)
            connection.connect(str(root.session.root_socket))
            connection.sendall(garbage)
            assert connection.recv(100) == b""
    assert await engine.list()


def test_a_controller_that_dies_is_started_again_on_the_same_socket(
    start: Callable[..., RootHandle], capfd: pytest.CaptureFixture[str]
) -> None:
    root = start()
    before = ask(root.session.controller_socket)["pid"]
    begun = time.monotonic()
    os.kill(before, signal.SIGKILL)
    until(lambda: gone(before))
    after = ask(root.session.controller_socket)["pid"]
    assert after != before
    assert time.monotonic() - begun < 1.0
    assert f"controller (pid {before}) ended by SIGKILL; starts again now" in capfd.readouterr().err


def test_new_connections_wait_while_there_is_no_proxy(root: RootHandle) -> None:
    before = ask_proxy(root.session.http)
    assert root.session.http is not None
    os.kill(before, signal.SIGSTOP)  # what comes from then on waits in the backlog
    until(lambda: psutil.Process(before).status() == psutil.STATUS_STOPPED)
    with socket.create_connection(root.session.http, timeout=10.0) as connection:
        os.kill(before, signal.SIGKILL)
        after = int(connection.makefile("rb").read())
    assert after != before


async def test_a_process_that_keeps_dying_is_started_again_ever_more_slowly(
    start: Callable[..., RootHandle],
) -> None:
    root = start(proxy_entry="engine_entries:fail")
    engine = await LocalEngine.connect(root.session.dir)
    begun = time.monotonic()
    exits = await next_exits(engine, 5)
    assert {exited.name for exited in exits} == {"proxy-0"}
    assert 0.7 <= time.monotonic() - begun < 3.0  # 0 + 0.1 + 0.2 + 0.4
    await engine.close()


async def test_a_new_controller_gives_out_only_what_is_left(root: RootHandle) -> None:
    machine = Machine(num_cpus=2, gpus=["0"], memory=100)
    before = await LocalEngine.connect(root.session.dir, machine)
    assert isinstance(before.allocate("r1", ResourceRequest(num_gpus=0.5)), Allocation)
    assert isinstance(before.allocate("r2", ResourceRequest(num_gpus=0.5)), Allocation)
    await before.start(replica("r1", listen="r1.sock"))
    await before.close()
    after = await LocalEngine.connect(root.session.dir, machine)
    [allocation] = [info.allocation for info in await after.list() if info.name == "r1"]
    assert allocation is not None
    assert allocation.env == {"CUDA_VISIBLE_DEVICES": "0"}
    assert isinstance(after.allocate("r3", ResourceRequest(num_gpus=0.6)), Refusal)
    assert isinstance(after.allocate("r3", ResourceRequest(num_gpus=0.5)), Allocation)
    await after.close()


async def test_without_a_root_calls_fail_and_do_not_hang(engine: LocalEngine, root: RootHandle) -> None:
    watching = asyncio.create_task(next_exits(engine, 1))
    await engine.list()
    await asyncio.to_thread(root.stop)
    with pytest.raises(ConnectionError):
        await watching
    with pytest.raises(ConnectionError):
        await engine.list()
    with pytest.raises(ConnectionError):
        await LocalEngine.connect(root.session.dir)


def test_a_killed_guardian_is_replaced_and_guards_what_runs_already(start: Callable[..., RootHandle]) -> None:
    root = psutil.Process(start().session.root_pid)
    until(lambda: any(child.name() == "headrace:guard" for child in root.children()))
    first = next(child for child in root.children() if child.name() == "headrace:guard")
    others = [child for child in root.children() if child != first]
    first.kill()
    until(lambda: any(child.name() == "headrace:guard" and child.pid != first.pid for child in root.children()))
    root.kill()
    until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in others))
