"""The benchmark suite's pure parts: what wrk prints, what the kernel tells, and how results are compared."""

from __future__ import annotations

import dataclasses
import http.server
import shutil
import threading
from pathlib import Path
from typing import ClassVar

import pytest
from bench.peer import Request
from bench.peers import PEERS, select_peers
from bench.result import Repeat, Result, Run, load, save
from bench.table import number, table_of
from bench.workload import SSE_EVENTS, WORKLOADS, Workload, select_workloads, wrong_answer
from hypothesis import given
from hypothesis import strategies as st

from bench import compare, processes, wrk

figures = st.one_of(st.none(), st.floats(min_value=1e-6, max_value=1e9))
repeats = st.builds(
    Repeat, figures, figures, figures, figures, figures, figures, st.integers(min_value=0, max_value=10**6), figures
)
results = st.builds(
    Result,
    st.sampled_from([workload.name for workload in WORKLOADS]),
    st.sampled_from([peer.name for peer in PEERS]),
    st.sampled_from(["ok", "failed", "unsupported", "not installed"]),
    st.text(max_size=20),
    st.one_of(st.none(), st.integers(min_value=1, max_value=1000)),
    st.lists(repeats, min_size=1, max_size=3),
)


def run_of(*measured: Result) -> Run:
    return Run("2026-01-01T00:00:00+00:00", {"cpu": "x", "cores": 2}, {"repeat": 3}, {"headrace": "0"}, list(measured))


def noop(cpu_ms: float | None, *more: float, peer: str = "headrace", status: str = "ok") -> Result:
    values = [] if cpu_ms is None else [cpu_ms, *more]
    return Result("noop", peer, status, repeats=[Repeat(cpu_ms=value, requests_per_s=1 / value) for value in values])


def workload(name: str) -> Workload:
    return next(one for one in WORKLOADS if one.name == name)


def verdicts(old: Run, new: Run, threshold: float = 5.0) -> list[str]:
    return [change.verdict for change in compare.compare(old, new, threshold)]


def test_what_wrk_printed_is_read_back() -> None:
    output = (
        "Running 1s test @ http://127.0.0.1:1/\n  Non-2xx or 3xx responses: 4\n\n"
        'RESULT {"requests": 20, "duration_us": 2000000, "bytes": 900, "p50_us": 1500, "p99_us": 9000,'
        ' "status": 4, "socket": 2}\n'
    )
    told = wrk.parse(output)
    assert (told.requests, told.duration_s, told.bytes_read) == (20, 2.0, 900)
    assert (told.p50_ms, told.p99_ms) == (1.5, 9.0)
    assert (told.status_errors, told.socket_errors, told.errors) == (4, 2, 6)


def test_error_responses_do_not_count_as_answered() -> None:
    told = wrk.Load(requests=20, duration_s=2.0, bytes_read=0, p50_ms=1, p99_ms=1, status_errors=4, socket_errors=2)
    assert told.answered == 16
    assert told.requests_per_s == 8.0


def test_wrk_without_a_result_is_an_error_that_shows_its_output() -> None:
    with pytest.raises(wrk.LoadFailed, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_a_missing_wrk_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(wrk.LoadFailed, match="apt-get install wrk"):
        wrk.find_wrk()


def test_a_single_request_is_left_to_wrk_to_repeat() -> None:
    script = wrk.lua_script([Request("POST", "/x", '{"x": 1.0}')])
    assert 'wrk.method = "POST"' in script
    assert 'wrk.body = "{\\"x\\": 1.0}"' in script
    assert "function request" not in script


def test_several_requests_are_sent_in_turn() -> None:
    script = wrk.lua_script([Request(path="/app0"), Request(path="/app1")])
    assert 'local paths = {"/app0", "/app1"}' in script
    assert "function request" in script


class _Routes(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        self.asked.add(self.path)
        self.send_response(503 if self.path == "/broken" else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_asks_every_route_and_tells_errors_from_answers() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Routes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        told = wrk.run(server.server_port, [Request(path="/a"), Request(path="/b"), Request(path="/broken")], 2, 1)
        server.shutdown()
    assert _Routes.asked == {"/a", "/b", "/broken"}
    assert told.socket_errors == 0
    assert told.status_errors == pytest.approx(told.requests / 3, abs=2)
    assert 0 < told.p50_ms <= told.p99_ms


def test_text_that_lua_would_read_otherwise_is_refused() -> None:
    with pytest.raises(ValueError, match="not ASCII"):
        wrk.lua_script([Request(path="/ä")])


def test_cpu_time_counts_children_that_were_waited_for() -> None:
    stat = "42 (a (strange) name) S 1 42 42 0 -1 4194560 9 9 0 0 100 50 30 20 20 0 1 0 9 9 9"
    ticks = 100 + 50 + 30 + 20
    assert processes.cpu_seconds_of_stat(stat) == ticks / processes._TICKS_PER_S


def test_cpu_time_of_this_process_grows_with_its_work() -> None:
    stat = Path("/proc/self/stat")
    before = processes.cpu_seconds_of_stat(stat.read_text())
    while processes.cpu_seconds_of_stat(stat.read_text()) - before < 0.05:
        sum(range(10_000))


def test_pss_is_read_in_bytes() -> None:
    assert processes.pss_of_rollup("00400000-7fff [rollup]\nRss:  900 kB\nPss:  300 kB\nPss_Dirty: 10 kB\n") == 307_200


def test_pss_of_this_process_is_told_by_the_kernel() -> None:
    assert processes.pss_of_rollup(Path("/proc/self/smaps_rollup").read_text()) > 1_000_000


@pytest.mark.parametrize("body", [b"ok", b'"ok"', b"ok\n"])
def test_the_right_answer_passes_as_text_or_json(body: bytes) -> None:
    assert wrong_answer(workload("noop"), body) is None


@pytest.mark.parametrize(("name", "body"), [("batch", b"[42.0]"), ("array-1mb", b"1000000 0 15")])
def test_the_right_answer_of_a_workload_passes(name: str, body: bytes) -> None:
    assert wrong_answer(workload(name), body) is None


@pytest.mark.parametrize("body", [b"", b"no", b'{"detail": "ok"}', b"okok"])
def test_a_wrong_answer_is_shown_beside_the_right_one(body: bytes) -> None:
    reason = wrong_answer(workload("noop"), body)
    assert reason is not None and "'ok'" in reason


def test_a_whole_stream_passes() -> None:
    assert wrong_answer(workload("sse"), "".join(f"data: {event}\n\n" for event in SSE_EVENTS).encode()) is None


def test_a_stream_without_its_last_event_does_not_pass() -> None:
    body = "".join(f"data: {event}\n\n" for event in SSE_EVENTS[:-1]).encode()
    assert "got 99" in str(wrong_answer(workload("sse"), body))


def test_a_stream_out_of_order_does_not_pass() -> None:
    body = "".join(f"data: {event}\n\n" for event in reversed(SSE_EVENTS)).encode()
    assert wrong_answer(workload("sse"), body) is not None


def test_workloads_are_chosen_by_name_group_and_glob_in_the_suites_order() -> None:
    names = [one.name for one in select_workloads(["array-*", "noop", "routes"])]
    assert names == ["noop", "array-1mb", "array-10mb", "routes-1", "routes-10", "routes-100", "routes-1000"]
    assert select_workloads(["all"]) == list(WORKLOADS)
    assert {one.group for one in select_workloads(["growth"])} == {"routes", "replicas", "payload"}


def test_peers_on_clusters_are_measured_where_they_are_asked_for() -> None:
    assert [one.name for one in select_peers(["cluster"])] == ["headrace-ray", "headrace-ray-3", "ray-3", "ray-fast-3"]
    assert all(peer not in select_peers(["all"]) for peer in select_peers(["cluster"]))
    assert select_peers(["all", "cluster", "ray"]) == list(PEERS)


def test_an_unknown_workload_or_peer_is_answered_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"'nope'.*noop-sync"):
        select_workloads(["nope"])
    with pytest.raises(ValueError, match=r"'nope'.*litserve"):
        select_peers(["nope"])


def test_names_are_unique() -> None:
    assert len({one.name for one in WORKLOADS}) == len(WORKLOADS)
    assert len({one.name for one in PEERS}) == len(PEERS)


def test_every_app_of_a_peer_belongs_to_a_workload() -> None:
    apps = {one.app for one in WORKLOADS}
    assert all(peer.apps <= apps for peer in PEERS)


@given(st.lists(results, max_size=5))
def test_a_saved_run_is_read_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, measured: list[Result]) -> None:
    path = tmp_path_factory.mktemp("run") / "result.json"
    save(run_of(*measured), path)
    assert load(path) == run_of(*measured)


def test_a_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"format": 99}')
    with pytest.raises(ValueError, match="not a result of this suite"):
        load(path)


def test_the_median_leaves_out_repeats_that_lack_the_figure() -> None:
    result = dataclasses.replace(noop(1.0), repeats=[Repeat(cpu_ms=1.0), Repeat(), Repeat(cpu_ms=3.0)])
    assert result.median("cpu_ms") == 2.0
    assert result.median("p99_ms") is None


@given(st.lists(results, max_size=12))
def test_the_table_has_a_row_for_every_workload_and_peer(measured: list[Result]) -> None:
    table = table_of(run_of(*measured), WORKLOADS[:3], PEERS)
    assert table.row_count == 3 * len(PEERS)


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (0.0261, "0.026"), (2.9, "2.90"), (64.33, "64.3"), (20_000.4, "20,000")]
)
def test_numbers_have_the_digits_that_matter(value: float | None, text: str) -> None:
    assert number(value) == text


def test_more_cpu_per_request_than_the_threshold_is_slower() -> None:
    assert verdicts(run_of(noop(1.0)), run_of(noop(1.06))) == ["slower"]
    assert verdicts(run_of(noop(1.0)), run_of(noop(0.9))) == ["faster"]
    assert verdicts(run_of(noop(1.0)), run_of(noop(1.04))) == ["same"]
    assert verdicts(run_of(noop(1.0)), run_of(noop(1.06)), threshold=10) == ["same"]


def test_a_measurement_that_fails_now_is_broken() -> None:
    failed = noop(None, status="failed")
    assert verdicts(run_of(noop(1.0)), run_of(failed)) == ["broken"]
    assert verdicts(run_of(failed), run_of(noop(1.0))) == ["fixed"]
    assert verdicts(run_of(failed), run_of(failed)) == []


def test_what_only_one_run_has_is_new_or_gone() -> None:
    assert verdicts(run_of(noop(1.0)), run_of()) == ["gone"]
    assert verdicts(run_of(), run_of(noop(1.0))) == ["new"]


def test_a_change_within_the_spread_of_the_repeats_is_marked() -> None:
    (wide,) = compare.compare(run_of(noop(1.0, 1.2)), run_of(noop(1.1, 1.4)))
    assert (wide.verdict, wide.noisy) == ("slower", True)
    (clear,) = compare.compare(run_of(noop(1.0, 1.05)), run_of(noop(1.2, 1.25)))
    assert (clear.verdict, clear.noisy) == ("slower", False)


@given(st.lists(results, max_size=8))
def test_a_run_compared_with_itself_has_not_changed(measured: list[Result]) -> None:
    assert set(verdicts(run_of(*measured), run_of(*measured))) <= {"same"}


def test_comparing_ends_with_a_status_that_ci_can_use(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    save(run_of(noop(1.0)), old)
    save(run_of(noop(2.0)), new)
    assert compare.main([str(old), str(new)]) == 1
    assert compare.main([str(old), str(old)]) == 0
    assert compare.main([str(old), str(tmp_path / "missing.json")]) == 2
