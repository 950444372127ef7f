"""Command line: `python -m bench [options]`, and `python -m bench install PEER...`."""

from __future__ import annotations

import argparse
import datetime
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from rich.console import Console

from bench import environments, processes, wrk
from bench.measure import Settings
from bench.peer import Peer
from bench.peers import PEERS, select_peers
from bench.result import Result
from bench.suite import run_suite
from bench.table import cells, table_of
from bench.workload import WORKLOADS, Workload, select_workloads

OUTPUT = Path(__file__).parent / "out"


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Run the same applications on Headrace and on each peer that is installed; print one table.",
        epilog="Install peers with `python -m bench install ray mosec ...` (`all` for every one, `chart` for charts).",
    )
    parser.add_argument(
        "--peers", default="all", help=f"comma-separated: all, cluster, {', '.join(p.name for p in PEERS)}"
    )
    parser.add_argument("--workloads", default="core", help="comma-separated: core, growth, all, names, globs")
    parser.add_argument("--duration", type=float, default=10.0, metavar="S", help="one measurement (default: 10)")
    parser.add_argument("--warmup", type=float, default=3.0, metavar="S", help="load before the first (default: 3)")
    parser.add_argument("--connections", type=int, metavar="N", help="instead of each workload's own number")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="measurements; medians count (default: 3)")
    parser.add_argument("--ready-timeout", type=float, default=120.0, metavar="S", help="until ready (default: 120)")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="JSON and charts (bench/out)")
    parser.add_argument("--envs", type=Path, metavar="DIR", help="peers' environments ($HEADRACE_BENCH_ENVS)")
    parser.add_argument("--list", action="store_true", help="list workloads and peers, and end")
    options = parser.parse_args(arguments)
    if options.repeat < 1:
        parser.error(f"--repeat must be at least 1, not {options.repeat}")
    return options


def parse_install(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench install", description="Install peers, each in its own folder."
    )
    parser.add_argument("names", nargs="+", help="peers, `uvicorn` for the bare frameworks, `chart`, or `all`")
    parser.add_argument("--envs", type=Path, metavar="DIR", help="where ($HEADRACE_BENCH_ENVS)")
    return parser.parse_args(arguments)


def install(arguments: list[str], console: Console) -> int:
    options = parse_install(arguments)
    folder: Path = (options.envs or environments.default_folder()).absolute()
    known = environments.requirements_of(PEERS) | {environments.CHART_ENVIRONMENT: environments.CHART_REQUIREMENTS}
    by_peer = {peer.name: peer.environment for peer in PEERS if peer.environment is not None}
    wanted: dict[str, None] = {}
    for name in options.names:
        if name == "all":
            wanted |= dict.fromkeys(known)
        elif name in known or name in by_peer:
            wanted[name if name in known else by_peer[name]] = None
        else:
            console.print(f"[red]nothing is called {name!r}[/red]; there are: all, {', '.join([*known, *by_peer])}")
            return 2
    for environment in wanted:
        console.print(f"installing {', '.join(known[environment])} into {folder / environment}")
        environments.install(folder, environment, known[environment])
    return 0


def draw(folder: Path, path: Path, console: Console) -> None:
    """Draw the charts in the environment that has matplotlib."""
    python = environments.python_of(folder, environments.CHART_ENVIRONMENT)
    if not python.exists():
        console.print("no chart: `python -m bench install chart` installs what draws it")
        return
    subprocess.run([str(python), "-m", "bench.chart", str(path)], cwd=Path(__file__).parent.parent, check=False)


def stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # runs every `finally`, which ends the servers


def main(arguments: list[str]) -> int:
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)  # a pipe or a file has no width that the table should be squeezed into
    if arguments[:1] == ["install"]:
        return install(arguments[1:], console)
    options = parse_arguments(arguments)
    try:
        peers = select_peers(options.peers.split(","))
        workloads = select_workloads(options.workloads.split(","))
    except ValueError as error:
        console.print(f"[red]{error}[/red]")
        return 2
    if options.list:
        for workload in WORKLOADS:
            console.print(f"{workload.name:14} {workload.group:9} {workload.title}", highlight=False)
        for peer in PEERS:
            console.print(f"{peer.name:14} {peer.title}{f' ({peer.note})' if peer.note else ''}", highlight=False)
        return 0
    try:
        wrk.find_wrk()
    except wrk.LoadFailed as error:
        console.print(f"[red]{error}[/red]")
        return 2
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    processes.adopt_orphans()
    folder: Path = (options.envs or environments.default_folder()).absolute()
    options.output.mkdir(parents=True, exist_ok=True)
    path: Path = options.output.absolute() / f"{datetime.datetime.now():%Y-%m-%d-%H%M%S}.json"
    settings = Settings(options.duration, options.warmup, options.repeat, options.connections, options.ready_timeout)

    def tell(workload: Workload, peer: Peer, result: Result | None) -> None:
        name = f"{workload.name:13} {peer.name:10}"
        if result is None:
            if console.is_terminal:
                console.print(f"{name} …", end="\r", highlight=False)
        elif result.status == "ok":
            figures = "  ".join(cell for cell in cells(result)[:6] if cell)
            errors = f"  [red]{result.errors} errors[/red]" if result.errors else ""
            console.print(f"{name} {figures}{errors}", highlight=False)
        elif result.status == "failed":
            console.print(f"{name} [red]failed[/red]: ", end="")
            console.print(result.reason, markup=False, highlight=False)

    try:
        run = run_suite(peers, workloads, settings, folder, path, tell)
    except KeyboardInterrupt:
        console.print(f"interrupted; what was measured is in {path}")
        return 130
    console.print(table_of(run, workloads, peers))
    console.print(f"{path}", highlight=False)
    draw(folder, path, console)
    return 1 if any(result.status == "failed" for result in run.results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
