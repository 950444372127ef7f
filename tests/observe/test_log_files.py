"""The log files of processes: their names, their rotation, what is captured, and reading them back."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.observe import access_log, logs
from headrace.observe.access_lines import call_lines, http_lines
from headrace.observe.access_log import AccessLog
from headrace.observe.log_capture import CapturedStream
from headrace.observe.log_files import (
    EndedLog,
    LoggedProcess,
    RotatingLogFile,
    is_written,
    remove_superseded,
    superseded,
)
from headrace.observe.log_reader import Budget, Entry, Tail, entry_of, last_entries

REPLICA = LoggedProcess("replica", "x7k2p", "default", "Model")
PROXY = LoggedProcess("proxy", "proxy-0")
ALL = Budget(1 << 40)


@pytest.fixture(autouse=True)
def log_of_this_process() -> Iterator[None]:
    yield
    logs.end_logging()


def log_file(path: Path, max_bytes: int = 0, backups: int = 5) -> RotatingLogFile:
    return RotatingLogFile(path, max_bytes, backups)


def last(path: Path, count: int = 100, text: str = "", end: int | None = None) -> list[str]:
    entries = last_entries(path, "p", count, lambda entry: text in entry.message, 0.0, ALL, end)
    return [entry.message for entry in entries]


names = st.text(min_size=1, max_size=30)


@given(names, names)
def test_a_file_name_tells_whose_log_it_is(app: str, deployment: str) -> None:
    with contextlib.suppress(UnicodeEncodeError):
        process = LoggedProcess("replica", "x7k2p", app, deployment)
        name = f"{process.stem}.log"
        assert "/" not in name and len(name.encode()) <= 255
        if "~" not in name:
            assert LoggedProcess.of_file(name) == process


def test_names_that_are_too_long_stay_apart() -> None:
    one, two = (LoggedProcess("replica", "x7k2p", "a" * 200 + end, "b" * 300) for end in "12")
    assert one.stem != two.stem and len(one.stem) < 240


@pytest.mark.parametrize("id", ["controller", "proxy-0", "gate", "policy/default#Model"])
def test_a_file_name_tells_the_component(id: str) -> None:
    process = LoggedProcess(id.partition("/")[0].partition("-")[0], id)
    assert LoggedProcess.of_file(f"{process.stem}.log") == process


def test_of_ended_replicas_the_newest_logs_of_each_deployment_are_kept() -> None:
    ended = [EndedLog(deployment, f"{deployment}{at}", at) for deployment in "ab" for at in (1, 5, 3)]
    assert sorted(superseded(ended, keep=2)) == ["a1", "b1"]
    assert sorted(superseded(ended, keep=2, keep_in_all=3)) == ["a1", "b1", "b3"]
    assert superseded([], keep=2) == []


def test_a_log_that_is_written_is_never_removed(tmp_path: Path) -> None:
    paths = [tmp_path / f"default#Model#{number:05}.log" for number in range(15)]
    files = [log_file(path) for path in paths]
    for at, path in enumerate(paths):
        os.utime(path, (at, at))
    (tmp_path / "default#Model#00001.log.1").touch()
    assert is_written(paths[0])
    for file in files[1:]:
        file.close()
    remove_superseded(tmp_path)
    left = {path.name[-9:-4] for path in tmp_path.iterdir()}
    assert left == {"00000", *(f"{number:05}" for number in range(5, 15))}
    files[0].close()


def test_a_full_file_is_put_aside_and_reading_goes_on_in_it(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    file = log_file(path, max_bytes=400, backups=2)
    tail = Tail(path, "p")
    seen: list[str] = []
    for number in range(30):
        file.write(f"2026-11-23T10:00:{number:02}.000Z INFO    p: message {number}\n")
        seen += [entry.message for entry in tail.read(1 << 20)]
    assert seen == [f"message {number}" for number in range(30)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", "a.log.1", "a.log.2"]
    found = last(path)
    assert found == [f"message {number}" for number in range(30)][-len(found) :] and len(found) > 15
    assert last(path, 12) == found[-12:]
    tail.close()
    file.close()


def test_without_backups_a_full_file_begins_anew(tmp_path: Path) -> None:
    file = log_file(tmp_path / "a.log", max_bytes=100, backups=0)
    for number in range(20):
        file.write(f"line {number} " + "x" * 20 + "\n")
    assert (tmp_path / "a.log").stat().st_size < 150 and len(list(tmp_path.iterdir())) == 1
    file.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_complained_of_once_and_stops_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    file = log_file(Path("/dev/full"))
    file.setFormatter(logging.Formatter("%(message)s"))
    for _ in range(1000):
        file.write("x" * 1000 + "\n")
        file.warn("y" * 1000)
    assert capfd.readouterr().err.count("cannot write to /dev/full") == 1
    with contextlib.suppress(OSError):
        file.close()


def test_lines_are_read_with_those_that_belong_to_them(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    long = "x" * 150_000  # over several blocks
    path.write_text(
        "Fatal Python error\n"
        "2026-11-23T10:00:01.250Z ERROR   default/Model/x7k2p 5f0e /text: failed\n  Traceback\n  ValueError: no\n"
        f"2026-11-23T10:00:02.000Z INFO    default/Model/x7k2p: {long}\n"
        '{"asctime":"2026-11-23T10:00:03.000Z","levelname":"INFO","message":"m","request_id":"r","route":"/","user":7}\n'
        "2026-11-23T10:00:04.000Z INFO    default/Model/x7k2p: last"
    )
    entries = last_entries(path, "p", 9, lambda entry: True, 0.0, ALL)
    assert [entry.message for entry in entries] == [
        "Fatal Python error",
        "failed\n  Traceback\n  ValueError: no",
        long,
        "m",
        "last",
    ]
    error = entries[1]
    assert (error.level, error.request_id, error.route, error.time % 60) == ("ERROR", "5f0e", "/text", 1.25)
    assert entries[3].fields == {"user": 7}
    assert last(path, 1, text="failed") == [error.message]


def test_reading_ends_when_its_budget_is_spent(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("2026-11-23T10:00:04.000Z INFO    p: words\n" * 20_000)
    assert last_entries(path, "p", 5, lambda entry: False, 0.0, budget := Budget(100_000)) == []
    assert -65_536 <= budget.left <= 0


def test_printed_lines_are_whole_whoever_else_prints() -> None:
    shown: list[str] = []
    stream = CapturedStream(io.StringIO(), shown.append)
    begun = threading.Event()

    def other() -> None:
        stream.write("of another")
        begun.set()

    stream.write("begun, ")
    thread = threading.Thread(target=other)
    thread.start()
    begun.wait(10)
    thread.join()
    stream.write("ended\n\nsecond\r 5%\r10%\n")
    assert shown == ["begun, ended", "10%"]
    stream.finish()
    assert shown[2:] == ["of another"]
    with pytest.raises(TypeError, match="must be str, not int"):
        stream.write(3)  # type: ignore[arg-type]


def test_a_line_that_is_logged_while_one_is_shown_goes_past_the_log() -> None:
    original = io.StringIO()
    stream = CapturedStream(original, lambda line: print("cannot show it", file=stream))  # type: ignore[call-overload]
    stream.write("line\n")
    assert original.getvalue() == "cannot show it\n"


@given(st.text(), st.binary(), st.text())
def test_no_client_can_break_a_line_of_the_access_log(request_id: str, path: bytes, route: str) -> None:
    done = (time.monotonic(), 0.0123, "GET", path, route, "default", 200, request_id, ("::1", 5))
    offset = time.time() - time.monotonic()
    for as_json in (False, True):
        text = http_lines(PROXY, as_json, False)([done, done], offset)
        lines = text.encode("utf-8", "backslashreplace").splitlines(keepends=True)
        assert len(lines) == 2
        entry = entry_of(lines[0], "proxy-0")
        assert entry is not None and "200 12.3ms" in entry.message and abs(entry.time - time.time()) < 60


def test_what_the_access_log_tells(tmp_path: Path) -> None:
    now, offset = time.monotonic(), time.time() - time.monotonic()
    done = (now, 0.0015, "GET", b"/v1/models", "/v1", "default", 404, "5f0e", ("127.0.0.1", 99))
    line = http_lines(PROXY, False, False)([done], offset)
    assert line.endswith("Z INFO    proxy-0 5f0e /v1: GET /v1/models 404 1.5ms\n")
    assert "127.0.0.1:99 GET" in http_lines(PROXY, False, True)([done], offset)
    fields = msgspec.json.decode(http_lines(PROXY, True, False)([done], offset))
    expected = {"method": "GET", "path": "/v1/models", "route": "/v1", "status": 404, "latency_ms": 1.5}
    assert fields.items() >= {**expected, "request_id": "5f0e", "application": "default"}.items()
    call = (now, 0.0015, b"embed", "/v1", "ValueError", "5f0e")
    line = call_lines(REPLICA, False, bytes.decode)([call], offset)
    assert line.endswith("Z INFO    default/Model/x7k2p 5f0e /v1: CALL embed ValueError 1.5ms\n")
    fields = msgspec.json.decode(call_lines(REPLICA, True, bytes.decode)([call], offset))
    assert fields.items() >= {"call": "embed", "status": "ValueError", "replica": "x7k2p"}.items()


def test_more_than_can_be_written_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "MAX_WAITING", 100)
    file = log_file(tmp_path / "a.log")
    file.setFormatter(logging.Formatter("%(message)s"))
    taken, go = threading.Event(), threading.Event()

    def slowly(batch: object, offset: float) -> str:
        taken.set()
        assert go.wait(30)
        return "".join(f"{number}\n" for number in batch)  # type: ignore[attr-defined]

    log = AccessLog(file, slowly)
    log.note((-1,))
    assert taken.wait(30)  # from here on the disk stands still
    for number in range(150):
        log.note((number,))
    go.set()
    log.flush()
    lines = (tmp_path / "a.log").read_text().splitlines()
    assert len(lines) == 102
    assert "50 requests are missing" in (tmp_path / "a.log").read_text()
    file.close()


def test_a_config_of_user_codes_is_left_alone_and_nothing_is_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    monkeypatch.setattr("sys.stdout", io.StringIO())
    # pytest's own handlers would count as a configuration of the user's.
    monkeypatch.setattr(logging.root, "handlers", [])
    logs.configure_logging(REPLICA, {}, tmp_path, capture=True)
    own = logging.getLogger("mine")
    own.warning("before")
    logging.basicConfig(format="%(name)s says %(message)s", level=logging.INFO)
    own.info("after")
    print("half a line", end="")
    logs.end_logging()
    own.info("too late")
    assert [(entry.level, entry.message) for entry in _entries(tmp_path)] == [
        ("WARNING", "before"),
        ("INFO", "mine says after"),
        ("INFO", "half a line"),
    ]
    logging.root.handlers.clear()


def test_logs_in_a_folder_of_the_users_are_found_from_the_instances(tmp_path: Path) -> None:
    folder, chosen = tmp_path / "session" / "logs", tmp_path / "kept"
    folder.mkdir(parents=True)
    for process in (REPLICA, PROXY):
        config = {"logs_dir": str(chosen), "max_file_bytes": 300}
        logs.configure_logging(process, config, folder)
        for number in range(9):
            logging.getLogger("headrace.test").warning("number %d", number)
        logs.end_logging()
        found = last(folder / f"{process.stem}.log")
        assert found[-5:] == [f"number {number}" for number in range(4, 9)]
    # Several instances may log there, and each has a proxy-0.
    assert {path.name for path in chosen.glob("*.log")} == {"default#Model#x7k2p.log", "proxy-0.session.log"}


def test_a_message_cannot_pass_for_another_line(tmp_path: Path) -> None:
    logs.configure_logging(REPLICA, {}, tmp_path)
    forged = "no user 'x'\n2026-11-23T10:00:00.000Z INFO    default/Model/x7k2p: user root has logged in"
    logging.getLogger("headrace.test").error(forged)
    logs.end_logging()
    assert [entry.message for entry in _entries(tmp_path)] == [forged]


def test_json_takes_whatever_user_code_logs(tmp_path: Path) -> None:
    logs.configure_logging(REPLICA, {"encoding": "JSON"}, tmp_path)
    logger = logging.getLogger("ray.serve")
    logger.info("\udcff broken", extra={"shape": (2, 3), "ray_serve_extra_fields": {"team": "a"}, "levelname2": object})
    logger.info("plain \x1b[31mred\x1b[0m", extra={"shape": (2, 3), "ray_serve_extra_fields": {"team": "a"}})
    logs.end_logging()
    broken, plain = _entries(tmp_path)
    assert "broken" in broken.message
    assert plain.message == "plain red"
    told = {"shape": [2, 3], "team": "a", "application": "default", "deployment": "Model", "replica": "x7k2p"}
    assert plain.fields.items() >= told.items()


def _entries(folder: Path) -> list[Entry]:
    (path,) = folder.glob("*.log")
    return last_entries(path, "p", 100, lambda entry: True, 0.0, ALL)
