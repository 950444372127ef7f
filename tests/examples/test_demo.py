"""What `scripts/demo` runs once its environment is there."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
from tests.free_port import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
DEMO = [sys.executable, "-m", "examples.pipeline.demo"]


def test_the_demo_answers_every_document_and_ends() -> None:
    command = [*DEMO, "--exit", "--port", str(free_port())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    for title in ("product review", "news paragraph", "bug report", "letter", "support chat"):
        assert title in done.stdout
    assert "positive" in done.stdout
    assert "negative" in done.stdout


def test_ctrl_c_ends_the_demo_and_all_its_processes() -> None:
    port = free_port()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*DEMO, "--port", str(port)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        printed = ""
        for line in demo.stdout:
            printed += line
            if "examples lie in examples/" in line:
                break
        assert "Ctrl-C" in printed, printed
        processes = psutil.Process(demo.pid).children(recursive=True)
        assert len(processes) >= 5
        demo.send_signal(signal.SIGINT)
        assert demo.wait(timeout=30) == 0
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []


def test_a_port_in_use_is_explained() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = subprocess.run(
            [*DEMO, "--exit", "--port", str(port)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr
