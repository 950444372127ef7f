"""Autoscaling policies that do what a file tells them, and note what they see."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headrace.config import AutoscalingContext, DeploymentID


def write(file: Path, text: str) -> None:
    """At once: who reads it meanwhile sees the old or the new."""
    unfinished = Path(f"{file}.new")
    unfinished.write_text(text)
    unfinished.replace(file)


class Told:
    """Does what its file says at the moment; notes its process in `<file>.pids`."""

    def __init__(self, file: str, suffix: str = "") -> None:
        self.file = Path(file + suffix)
        self.calls = 0
        with open(f"{self.file}.pids", "a") as pids:
            pids.write(f"{os.getpid()}\n")
        if self.file.exists() and self.file.read_text() == "refuse":
            raise RuntimeError("no connection to the queue")

    def __call__(self, ctx: AutoscalingContext) -> Any:
        self.calls += 1
        match self.file.read_text().split(maxsplit=1):
            case ["want", number]:
                state = {"calls": ctx.policy_state.get("calls", 0) + 1}
                write(Path(f"{self.file}.calls"), f"{self.calls} {state['calls']}")
                return float(number), state
            case ["return", text]:
                return json.loads(text)
            case ["raise"]:
                raise ValueError("no such metric")
            case ["shout"]:
                raise ValueError("a" * 1_000_000)
            case ["block"]:
                while self.file.read_text() == "block":
                    time.sleep(0.01)
                return ctx.target_num_replicas
            case ["exit"]:
                write(self.file, "block")  # what comes after this process
                os._exit(3)
            case ["kill"]:
                write(self.file, "block")
                os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError(self.file.read_text())


def see(ctx: AutoscalingContext) -> int:
    """Write down what it is told, and where it runs."""
    seen = {
        **asdict(ctx),
        "config": ctx.config.model_dump(mode="json"),
        "total_running_requests": ctx.total_running_requests,
        "pid": os.getpid(),
        "cwd": os.getcwd(),
        "of_environment": os.environ.get("OF_POLICY"),
    }
    file = Path(os.environ["SEEN_FILE"])
    write(file, json.dumps(seen))
    return ctx.target_num_replicas


def second_follows_first(contexts: dict[DeploymentID, AutoscalingContext]) -> Any:
    """Of an application: as many of `Second` as of `First`, whose number a file tells."""
    command = Path(os.environ["TOLD_FILE"]).read_text()
    if command == "raise":
        raise ValueError("no such metric")
    if command == "strange":
        return {DeploymentID("Nobody", "default"): 1}
    by_name = {key.name: key for key in contexts}
    first = contexts[by_name["First"]]
    if command == "first alone":
        return {by_name["First"]: 1}, None
    state = {by_name["First"]: {"calls": first.policy_state.get("calls", 0) + 1}}
    write(Path(os.environ["TOLD_FILE"] + ".calls"), str(state[by_name["First"]]["calls"]))
    return {by_name["First"]: int(command), by_name["Second"]: first.current_num_replicas}, state
