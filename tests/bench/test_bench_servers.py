"""The benchmark suite's servers: real processes are started, waited for, and ended with all that they started."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Serves "ok" on a port, as a peer's script would, after starting a grandchild that detaches itself and ignores SIGTERM.
SERVER = """
    import http.server, os, signal, subprocess, sys

    ignore = "import signal, time; signal.signal(15, signal.SIG_IGN); signal.signal(2, signal.SIG_IGN); "
    detached = ignore + "time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", detached], start_new_session=True)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(sys.argv[2].encode())

    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

# The suite makes itself the reaper of orphans, so it is tried in a process of its own.
TRIAL = """
    import sys
    from pathlib import Path
    from bench import processes
    from bench.peer import Peer
    from bench.server import ServerFailed, running
    from bench.workload import WORKLOADS

    script, answer = sys.argv[1:3]
    noop = WORKLOADS[0]
    peer = Peer("x", "X", "x", frozenset({"noop"}), lambda python, work, port: [str(python), script, str(port), answer])
    processes.adopt_orphans()
    try:
        with running(peer, Path(sys.executable), noop, 20.0) as server:
            print("ready", server.ready_s > 0, len(processes.descendants()), processes.memory_bytes() > 10**6)
    except ServerFailed as error:
        print("failed", error)
    print("left", processes.descendants())
"""


def trial(tmp_path: Path, answer: str, server: str = SERVER) -> str:
    script = tmp_path / "server.py"
    script.write_text(textwrap.dedent(server))
    command = [sys.executable, "-c", textwrap.dedent(TRIAL), str(script), answer]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def test_a_server_is_ended_with_its_detached_descendants(tmp_path: Path) -> None:
    told = trial(tmp_path, "ok")
    assert "ready True 2 True" in told
    assert "left []" in told


def test_a_wrong_answer_fails_the_server_and_leaves_nothing(tmp_path: Path) -> None:
    told = trial(tmp_path, "nonsense")
    assert "failed wrong answer to GET /: expected 'ok', got 'nonsense'" in told
    assert "left []" in told


def test_a_server_that_ends_is_reported_with_its_log(tmp_path: Path) -> None:
    told = trial(tmp_path, "ok", "raise SystemExit('no licence for the flux compensator')")
    assert "failed the server ended with status 1 before it answered" in told
    assert "no licence for the flux compensator" in told
    assert "left []" in told
