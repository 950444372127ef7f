"""One workload on one peer: start the server, measure, end it."""

from __future__ import annotations

import resource
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from bench import processes, wrk
from bench.peer import Peer
from bench.probe import Probe
from bench.result import Repeat, Result
from bench.server import Server, ServerFailed, running
from bench.workload import SSE_EVENTS, Workload, wrong_answer


@dataclass(frozen=True)
class Settings:
    """How long and how often to measure.

    Attributes:
        duration_s: length of one measurement under load, seconds.
        warmup_s: load before the first measurement, seconds.
        repeat: measurements; the table shows their median.
        connections: overrides the workload's own number.
        ready_timeout_s: how long a server may take until it answers, seconds.
    """

    duration_s: float = 10.0
    warmup_s: float = 3.0
    repeat: int = 3
    connections: int | None = None
    ready_timeout_s: float = 120.0


def measure(peer: Peer, python: Path, workload: Workload, settings: Settings) -> Result:
    """Measure; a server or a load that fails gives a result with status "failed" and the reason."""
    kinds = {"load": _under_load, "start": _start, "new-replica": _new_replica, "scale": _scale, "memory": _memory}
    connections = (settings.connections or workload.connections) if workload.kind == "load" else None
    try:
        repeats = kinds[workload.kind](peer, python, workload, settings)
    except (ServerFailed, wrk.LoadFailed) as error:
        return Result(workload.name, peer.name, "failed", str(error), connections)
    return Result(workload.name, peer.name, "ok", "", connections, repeats)


def _under_load(peer: Peer, python: Path, workload: Workload, settings: Settings) -> list[Repeat]:
    connections = settings.connections or workload.connections
    with running(peer, python, workload, settings.ready_timeout_s) as server:
        if settings.warmup_s > 0:
            wrk.run(server.port, server.requests, connections, settings.warmup_s)
        repeats = [_load_once(server, workload, connections, settings.duration_s) for _ in range(settings.repeat)]
        memory_mb = processes.memory_bytes() / 1e6
        _check_again(server, workload)
        return [Repeat(**{**vars(repeat), "memory_mb": memory_mb, "ready_s": server.ready_s}) for repeat in repeats]


def _load_once(server: Server, workload: Workload, connections: int, duration_s: float) -> Repeat:
    busy, own, started = processes.machine_busy_seconds(), _own_cpu_seconds(), time.monotonic()
    used = processes.cpu_seconds()
    load = wrk.run(server.port, server.requests, connections, duration_s)
    used = processes.cpu_seconds() - used
    busy, own = processes.machine_busy_seconds() - busy, _own_cpu_seconds() - own
    if load.answered == 0:
        raise ServerFailed(f"no request was answered in {duration_s:.0f} s ({load.errors} errors)")
    if workload.app == "sse" and load.errors == 0:
        # wrk counts a response only when its last chunk is there; short ones would show in the bytes.
        whole = sum(len(f"data: {event}\n\n") for event in SSE_EVENTS)
        if load.bytes_read < load.requests * whole:
            raise ServerFailed(f"streams were cut: {load.bytes_read} bytes for {load.requests} of {whole} bytes each")
    return Repeat(
        requests_per_s=load.requests_per_s,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        cpu_ms=1e3 * used / load.answered,
        errors=load.errors,
        other_cpu=max(0.0, (busy - used - own) / (time.monotonic() - started)),
    )


def _check_again(server: Server, workload: Workload) -> None:
    """Whether the server still answers rightly after the load."""
    with Probe(server.port, timeout_s=30.0) as probe:
        status, body = probe.ask(server.requests[0])
    if status != 200 or (reason := wrong_answer(workload, body)) is not None:
        raise ServerFailed(f"wrong answer after the load: status {status}" + ("" if status != 200 else f": {reason}"))


def _own_cpu_seconds() -> float:
    """CPU time of the suite and of the wrk processes that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _start(peer: Peer, python: Path, workload: Workload, settings: Settings) -> list[Repeat]:
    repeats = []
    for _ in range(settings.repeat):
        with running(peer, python, workload, settings.ready_timeout_s) as server:
            repeats.append(Repeat(ready_s=server.ready_s))
    return repeats


def _memory(peer: Peer, python: Path, workload: Workload, settings: Settings) -> list[Repeat]:
    """PSS after a thousand requests, when it has settled: the median of readings that no longer grow."""
    repeats = []
    for _ in range(settings.repeat):
        with running(peer, python, workload, settings.ready_timeout_s) as server:
            with Probe(server.port, timeout_s=30.0) as probe:
                for _ in range(1000):
                    probe.ask(server.requests[0])
            readings = [processes.memory_bytes()]
            while len(readings) < 10:
                time.sleep(0.5)  # the interval between two readings
                readings.append(processes.memory_bytes())
                if readings[-1] <= 1.01 * readings[-2]:
                    break
            repeats.append(Repeat(memory_mb=statistics.median(readings[-2:]) / 1e6))
    return repeats


def _new_replica(peer: Peer, python: Path, workload: Workload, settings: Settings) -> list[Repeat]:
    """Ask for one more replica, again and again: seconds from the command until a process not seen before answers."""
    repeats = []
    with running(peer, python, workload, settings.ready_timeout_s) as server, Probe(server.port, 30.0) as probe:
        seen = {probe.ask(server.requests[0])[1]}
        for count in range(2, 2 + settings.repeat):
            started = time.monotonic()
            server.commands.write(f"{count}\n".encode())
            server.commands.flush()
            while True:
                status, who = probe.ask(server.requests[0])
                if status == 200 and who not in seen:
                    break
                if time.monotonic() - started > settings.ready_timeout_s:
                    raise ServerFailed(f"replica {count} did not answer within {settings.ready_timeout_s:.0f} s")
                time.sleep(0.001)  # polling, gently: the new replica needs the cores
            repeats.append(Repeat(ready_s=time.monotonic() - started))
            seen.add(who)
            _expect_all(probe, server, seen, settings.ready_timeout_s)
    return repeats


def _scale(peer: Peer, python: Path, workload: Workload, settings: Settings) -> list[Repeat]:
    """Ask for `workload.size` replicas in place of one: seconds until as many processes have answered."""
    repeats = []
    for _ in range(settings.repeat):
        with running(peer, python, workload, settings.ready_timeout_s) as server, Probe(server.port, 30.0) as probe:
            seen = {probe.ask(server.requests[0])[1]}
            started = time.monotonic()
            server.commands.write(f"{workload.size}\n".encode())
            server.commands.flush()
            while len(seen) < workload.size:
                status, who = probe.ask(server.requests[0])
                if status == 200:
                    seen.add(who)
                if time.monotonic() - started > settings.ready_timeout_s:
                    raise ServerFailed(f"{len(seen)} of {workload.size} replicas answered")
                time.sleep(0.005)  # polling, gently: the new replicas need the cores
            repeats.append(Repeat(ready_s=time.monotonic() - started))
    return repeats


def _expect_all(probe: Probe, server: Server, expected: set[bytes], timeout_s: float) -> None:
    """Whether the new replica came beside the old ones, and not in the place of one."""
    missing = set(expected)
    deadline = time.monotonic() + timeout_s
    while missing:
        missing.discard(probe.ask(server.requests[0])[1])
        if time.monotonic() > deadline:
            raise ServerFailed(f"{len(missing)} of {len(expected)} replicas no longer answer")
