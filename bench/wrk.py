"""Load from wrk: the script that it runs, its command line, and what it tells."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import processes
from bench.peer import Request


class LoadFailed(Exception):
    """wrk is missing, or did not run to its end."""


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw.

    Attributes:
        requests: responses of any status.
        duration_s: seconds.
        bytes_read: whole responses, with their headers.
        p50_ms, p99_ms: latency over all responses, milliseconds.
        status_errors: responses with a status of 400 and above.
        socket_errors: connections that failed or timed out.
    """

    requests: int
    duration_s: float
    bytes_read: int
    p50_ms: float
    p99_ms: float
    status_errors: int
    socket_errors: int

    @property
    def answered(self) -> int:
        """Responses that are no errors: the ones that count."""
        return self.requests - self.status_errors

    @property
    def requests_per_s(self) -> float:
        return self.answered / self.duration_s

    @property
    def errors(self) -> int:
        return self.status_errors + self.socket_errors


def find_wrk() -> str:
    """Path of wrk. Raises LoadFailed that says how to install it."""
    path = shutil.which("wrk")
    if path is None:
        raise LoadFailed("wrk is not installed: `apt-get install wrk` (Debian, Ubuntu) or `brew install wrk` (macOS)")
    return path


def _lua(text: str) -> str:
    # JSON's escapes are Lua's for the ASCII that requests here are made of.
    if not text.isascii():
        raise ValueError(f"not ASCII: {text!r}")
    return json.dumps(text)


def lua_script(requests: Sequence[Request]) -> str:
    """The wrk script that sends these requests in turn and prints one line of JSON at the end.

    A single request is left to wrk to repeat by itself: its `request` hook would cost time for each one.
    """
    first = requests[0]
    headers = ", ".join(f"[{_lua(name)}] = {_lua(value)}" for name, value in first.headers.items())
    lines = [f"wrk.method = {_lua(first.method)}", f"wrk.path = {_lua(first.path)}", f"wrk.headers = {{{headers}}}"]
    if first.body is not None:
        lines.append(f"wrk.body = {_lua(first.body)}")
    if len(requests) > 1:
        paths = ", ".join(_lua(request.path) for request in requests)
        lines += [
            f"local paths = {{{paths}}}",
            "local ready, turn = {}, 0",
            "function init(arguments)",  # wrk has set the Host header by then
            "  for i, path in ipairs(paths) do ready[i] = wrk.format(nil, path) end",
            "end",
            "function request()",
            "  turn = turn % #ready + 1",
            "  return ready[turn]",
            "end",
        ]
    lines += [
        "function done(summary, latency, requests)",
        "  local e = summary.errors",
        "  io.write(string.format(",
        '    \'\\nRESULT {"requests": %d, "duration_us": %d, "bytes": %d, "p50_us": %d, "p99_us": %d,\' ..',
        '    \' "status": %d, "socket": %d}\\n\',',
        "    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),",
        "    e.status, e.connect + e.read + e.write + e.timeout))",
        "end",
    ]
    return "\n".join(lines) + "\n"


def parse(output: str) -> Load:
    """The figures out of what wrk printed. Raises LoadFailed where there are none."""
    found = re.search(r"^RESULT (\{.*\})$", output, flags=re.MULTILINE)
    if found is None:
        raise LoadFailed(f"wrk printed no result:\n{output.strip()[-500:]}")
    told = json.loads(found.group(1))
    return Load(
        requests=told["requests"],
        duration_s=told["duration_us"] / 1e6,
        bytes_read=told["bytes"],
        p50_ms=told["p50_us"] / 1e3,
        p99_ms=told["p99_us"] / 1e3,
        status_errors=told["status"],
        socket_errors=told["socket"],
    )


def run(port: int, requests: Sequence[Request], connections: int, duration_s: float) -> Load:
    """Load the server for `duration_s` seconds over `connections` connections, from one thread."""
    with tempfile.TemporaryDirectory(prefix="hb-wrk-") as folder:
        script = Path(folder) / "load.lua"
        script.write_text(lua_script(requests))
        command = [find_wrk(), "--threads", "1", "--connections", str(connections), "--latency", "--timeout", "30s"]
        command += ["--duration", f"{max(1, round(duration_s))}s", "--script", str(script), f"http://127.0.0.1:{port}/"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=processes.prepare_child,
        )
        try:
            output, _ = process.communicate(timeout=duration_s + 60)
        except subprocess.TimeoutExpired as error:
            raise LoadFailed(f"wrk did not end within {duration_s + 60:.0f} s") from error
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    return parse(output)
