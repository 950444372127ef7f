"""A minute at 80 % load leaves memory and file descriptors where they were."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.full
def test_a_minute_of_load_grows_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.soak", "--seconds", "60", "--out", str(tmp_path / "soak")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len((tmp_path / "soak.csv").read_text().splitlines()) > 30
