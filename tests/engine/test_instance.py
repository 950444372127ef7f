"""An instance from its start to its end, whatever the end is."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.instances import ENTRIES, ask, ask_proxy, config, gone, until
from headrace.engine.local import LocalEngine, RootHandle, begin_launch, launch, stop_session
from headrace.engine.process import ProcessSpec
from headrace.engine.session import Session
from headrace.exceptions import StartupError

DRIVER = """
import asyncio, json, os, signal, sys
from headrace.engine.local import LocalEngine, launch
from headrace.engine.process import ProcessSpec
sys.path.append("{tests}")
from engine.instances import ask, ask_proxy, config, until

async def main():
    handle = launch(config({options}))
    ask(handle.session.controller_socket)
    engine = await LocalEngine.connect(handle.session.dir)
    spec = ProcessSpec(name="r1", role="replica", entry="engine_entries:start_others", args={{"file": "{file}"}})
    await engine.start(spec)
    until(lambda: os.path.exists("{file}"))
    pids = [info.pid for info in await engine.list()] + [int(pid) for pid in open("{file}").read().split()]
    print(json.dumps([str(handle.session.dir), handle.pid, pids]), flush=True)
    {then}

asyncio.run(main())
"""


def drive(
    tmp_path: Path, then: str = "signal.pause()", options: str = ""
) -> tuple[subprocess.Popen[bytes], Session, list[int]]:
    """A driver of an instance with a replica that has started programs; all of its processes."""
    script = DRIVER.format(tests=Path(ENTRIES).parent, file=tmp_path / "pids", then=then, options=options)
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert driver.stdout is not None
    folder, root_pid, pids = json.loads(driver.stdout.readline())
    return driver, Session.load(folder), [root_pid, *pids]


def nothing_remains(session: Session, pids: list[int]) -> bool:
    return all(gone(pid) for pid in pids) and not session.dir.exists() and not session.shm_dir.exists()


def test_it_answers_well_before_its_processes_are_ready(sessions: Path) -> None:
    begun = time.perf_counter()
    root = launch(config(proxy_entry="slow_entries:proxy"))
    try:
        assert time.perf_counter() - begun < 0.5
        assert ask_proxy(root.session.http)
    finally:
        root.stop()


def test_other_work_can_be_done_while_it_starts(sessions: Path) -> None:
    pending = begin_launch(config())
    root = pending.wait()
    root.stop()


def test_stopping_it_leaves_nothing(root: RootHandle) -> None:
    ask(root.session.controller_socket)
    process = psutil.Process(root.pid)
    until(lambda: len(process.children()) == 3)  # its guardian, the controller and the proxy
    pids = [root.pid, *(child.pid for child in process.children(recursive=True))]
    root.stop()
    assert nothing_remains(root.session, pids)
    assert not root.alive
    root.stop()


def test_when_its_driver_is_killed_nothing_remains(sessions: Path, tmp_path: Path) -> None:
    driver, session, pids = drive(tmp_path)
    driver.kill()
    begun = time.monotonic()
    driver.wait()
    until(lambda: nothing_remains(session, pids))
    assert time.monotonic() - begun < 2.0


def test_when_its_driver_is_killed_nothing_has_time_to_resist(sessions: Path, tmp_path: Path) -> None:
    driver, session, pids = drive(tmp_path, options='controller_entry="engine_entries:ignore_the_end"')
    driver.kill()
    begun = time.monotonic()
    driver.wait()
    until(lambda: nothing_remains(session, pids))
    assert 0.4 < time.monotonic() - begun < 2.0


def test_when_its_driver_ends_without_stopping_it_nothing_remains(sessions: Path, tmp_path: Path) -> None:
    driver, session, pids = drive(tmp_path, then="os._exit(0)")
    driver.wait()
    until(lambda: nothing_remains(session, pids))


def test_where_the_system_does_not_tell_of_the_drivers_end_it_is_noticed_still(sessions: Path, tmp_path: Path) -> None:
    script = """
import os, subprocess, sys
import msgspec
from engine.instances import config
root = "import os, sys; del os.pidfd_open; from headrace.engine.root import main; sys.exit(main())"
process = subprocess.Popen([sys.executable, "-c", root], stdin=subprocess.PIPE)
process.communicate(msgspec.json.encode(config(driver_pid=os.getpid())))
"""
    driver = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(Path(ENTRIES).parent)}, stdout=-1
    )
    assert driver.stdout is not None
    answer = json.loads(driver.stdout.readline())
    session = Session.load(answer["session_dir"])
    controller = int(ask(session.controller_socket)["pid"])
    assert not gone(answer["pid"])
    driver.kill()
    driver.wait()
    until(lambda: nothing_remains(session, [answer["pid"], controller]))
    driver.stdout.close()


def test_when_its_root_is_killed_all_of_it_ends(sessions: Path, tmp_path: Path) -> None:
    driver, session, pids = drive(tmp_path)
    os.kill(session.root_pid, signal.SIGKILL)
    until(lambda: nothing_remains(session, pids))
    driver.kill()
    driver.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_its_root_ends_all_and_removes_the_files(sessions: Path, tmp_path: Path, number: int) -> None:
    driver, session, pids = drive(tmp_path)
    os.kill(session.root_pid, number)
    until(lambda: nothing_remains(session, pids))
    driver.kill()
    driver.wait()


def test_who_ignores_the_end_is_killed_after_the_grace_time(start: Callable[..., RootHandle]) -> None:
    root = start(controller_entry="engine_entries:ignore_the_end", grace_s=0.3)
    pid = int(ask(root.session.controller_socket)["pid"])
    begun = time.monotonic()
    root.stop()
    assert gone(pid)
    assert 0.25 < time.monotonic() - begun < 2.0


def test_a_second_signal_ends_the_grace_time(start: Callable[..., RootHandle]) -> None:
    root = start(controller_entry="engine_entries:ignore_the_end", grace_s=60)
    ask(root.session.controller_socket)
    begun = time.monotonic()
    until(lambda: (root.alive and os.kill(root.pid, signal.SIGTERM)) or not root.alive)
    assert time.monotonic() - begun < 5.0


async def test_proxies_end_before_what_they_need(start: Callable[..., RootHandle], tmp_path: Path) -> None:
    ends = tmp_path / "ends"
    root = start(proxy_entry="engine_entries:tidy_up_proxy", instance={"file": str(ends)})
    engine = await LocalEngine.connect(root.session.dir)
    spec = ProcessSpec(name="r1", role="replica", entry="engine_entries:tidy_up", args={"file": str(ends)})
    await engine.start(spec)
    until(lambda: {path.name for path in tmp_path.iterdir()} == {"ends.r1", "ends.proxy-0"})
    await engine.shutdown()
    until(lambda: not root.alive)
    assert ends.read_text().split() == ["proxy-0", "r1"]


def test_a_root_that_hangs_is_killed_with_all_under_it(root: RootHandle) -> None:
    pid = int(ask(root.session.controller_socket)["pid"])
    os.kill(root.pid, signal.SIGSTOP)
    root.stop(timeout_s=0.2)
    until(lambda: gone(pid))
    assert not root.session.dir.exists()


def test_two_instances_live_side_by_side(start: Callable[..., RootHandle]) -> None:
    first, second = start(), start()
    assert first.session.http != second.session.http
    assert ask(first.session.controller_socket)["secret"] != ask(second.session.controller_socket)["secret"]
    first.stop()
    assert ask_proxy(second.session.http)


def listening() -> tuple[socket.socket, int]:
    taken = socket.create_server(("127.0.0.1", 0))
    return taken, taken.getsockname()[1]


def test_a_port_in_use_is_told_with_who_holds_it_and_the_option(sessions: Path) -> None:
    taken, port = listening()
    with taken, pytest.raises(StartupError) as error:
        launch(config(http_port=port))
    text = str(error.value)
    assert f"cannot serve HTTP on 127.0.0.1:{port}: the port is in use by process {os.getpid()} (" in text
    assert "choose another port with http_options.port" in text
    assert list(sessions.glob("*/session.json")) == []


def test_a_port_that_another_instance_holds_is_told_as_that(start: Callable[..., RootHandle]) -> None:
    root = start()
    ask(root.session.controller_socket)
    assert root.session.http is not None
    with pytest.raises(StartupError, match=f"in use by another Headrace instance, process {root.pid}"):
        launch(config(http_port=root.session.http[1]))


def test_a_rest_port_in_use_names_its_own_option(sessions: Path) -> None:
    taken, port = listening()
    with taken, pytest.raises(StartupError, match=r"the REST API on .* another port with dashboard_port"):
        launch(config(rest_port=port))


def test_the_rest_port_falls_back_to_the_next_that_is_free(start: Callable[..., RootHandle]) -> None:
    taken, port = listening()
    with taken:
        assert port < start(rest_port=port, rest_port_fallback=True).session.rest[1] <= port + 100


def test_an_address_that_this_machine_does_not_have_is_named(sessions: Path) -> None:
    with pytest.raises(StartupError, match=r"this machine has no address '203.0.113.7'"):
        launch(config(http_host="203.0.113.7"))


def test_without_http_there_are_no_proxies(start: Callable[..., RootHandle]) -> None:
    root = start(http_host=None)
    assert root.session.http is None
    ask(root.session.controller_socket)
    assert len(psutil.Process(root.pid).children()) == 2  # the guardian and the controller


def test_ipv6_is_served(start: Callable[..., RootHandle]) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").read_text():
        pytest.skip("no IPv6 here")
    assert ask_proxy(start(http_host="::1").session.http)


def test_what_processes_print_appears_where_the_driver_prints(
    start: Callable[..., RootHandle], capfd: pytest.CaptureFixture[str]
) -> None:
    root = start(controller_entry="engine_entries:talk")
    ask(root.session.controller_socket)
    captured = capfd.readouterr()
    assert captured.out == "to standard output\n"
    assert "to standard error\n" in captured.err


def test_without_a_driver_it_writes_to_a_log_and_outlives_who_started_it(sessions: Path) -> None:
    script = f"""
import sys
sys.path.append({str(Path(ENTRIES).parent)!r})
from headrace.engine.local import launch
from engine.instances import config
print(launch(config(detached=True, controller_entry="engine_entries:talk")).session.dir)
"""
    folder = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True, text=True).stdout
    session = Session.load(folder.strip())
    try:
        assert ask(session.controller_socket)["name"] == "controller"
        log = (session.dir / "logs" / "headrace.log").read_text()
        assert "to standard output\n" in log
        assert "to standard error\n" in log
    finally:
        stop_session(session)
    assert not session.dir.exists()
    until(lambda: gone(session.root_pid))


def test_files_in_the_current_folder_do_not_stand_in_for_modules(
    start: Callable[..., RootHandle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "msgspec", "selectors", "headrace"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert ask(start().session.controller_socket)["name"] == "controller"


def test_modules_of_the_driver_are_found(
    start: Callable[..., RootHandle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_the_driver.py").write_text("from engine_entries import serve_wire")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert ask(start(controller_entry="of_the_driver:serve_wire").session.controller_socket)["name"] == "controller"


@pytest.mark.parametrize(("given", "message"), [(b"{", "truncated"), (b'{"htp_port": 1}', "htp_port")])
def test_a_root_refuses_what_it_does_not_understand(given: bytes, message: str) -> None:
    command = [sys.executable, "-m", "headrace.engine.root"]
    result = subprocess.run(command, input=given, capture_output=True, timeout=20, check=False)
    answer: dict[str, Any] = json.loads(result.stdout)
    assert message in answer["error"]
    assert result.returncode == 1


def test_a_root_that_cannot_even_begin_is_reported(sessions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(StartupError, match="ended with status 1 before it answered"):
        launch(config())


def test_the_end_of_a_lifeline_ends_a_process() -> None:
    script = """
import os, sys, threading
from headrace.engine.child import watch_lifeline
os.setpgid(0, 0)
threading.Thread(target=watch_lifeline, args=(int(sys.argv[1]),), daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
"""
    end, ours = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(end)], pass_fds=[end], stdout=subprocess.PIPE, text=True
    )
    os.close(end)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.close(ours)
    assert process.wait(10) == -signal.SIGKILL
