"""How scripts/demo and scripts/test come by their environment, with stand-ins for Python and pip."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ("bash", "cat", "cksum", "dirname", "env", "mkdir", "sed")

# Answers the probes of setup.sh, and writes down everything else that it is asked.
STAND_IN = """#!/usr/bin/env bash
case "$1 $2" in
  "-c "*) exit {probe} ;;
  "--version "*) echo "Python 3.99" ;;
  "-m venv") mkdir -p .venv/bin && cat "$0" > .venv/bin/python && chmod +x .venv/bin/python; echo venv >> log ;;
  *) echo "$*" >> log ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with nothing in it but what set-up reads, and a PATH without Python."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for name in ("pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in (*TOOLS, "chmod"):
        found = shutil.which(tool)
        assert found is not None
        (tools / tool).symlink_to(found)
    return tmp_path


def put_python(clone: Path, name: str, *, suitable: bool = True) -> None:
    path = clone / "bin" / name
    path.write_text(STAND_IN.format(probe=0 if suitable else 1))
    path.chmod(0o755)


def set_up(clone: Path, arguments: str = "demo -e .") -> subprocess.CompletedProcess[str]:
    script = f"set -euo pipefail; source scripts/setup.sh; set_up {arguments}"
    environment = {"PATH": str(clone / "bin"), "HOME": os.environ.get("HOME", "")}
    return subprocess.run(
        ["bash", "-c", script], cwd=clone, env=environment, capture_output=True, text=True, check=False
    )


def installations(clone: Path) -> list[str]:
    log = clone / "log"
    return [line for line in log.read_text().splitlines() if " -e ." in line] if log.exists() else []


def test_without_python_it_says_what_to_install(clone: Path) -> None:
    done = set_up(clone)
    assert done.returncode == 1
    assert "no Python 3.11 or newer" in done.stderr
    assert "apt-get install" in done.stderr


def test_a_python_that_is_too_old_is_passed_over(clone: Path) -> None:
    put_python(clone, "python3", suitable=False)
    put_python(clone, "python3.12")
    done = set_up(clone)
    assert done.returncode == 0, done.stderr
    assert len(installations(clone)) == 1


def test_a_second_call_installs_nothing(clone: Path) -> None:
    put_python(clone, "python3")
    assert set_up(clone).returncode == 0
    second = set_up(clone)
    assert (second.returncode, second.stderr) == (0, "")
    assert len(installations(clone)) == 1


def test_changed_dependencies_are_installed(clone: Path) -> None:
    put_python(clone, "python3")
    set_up(clone)
    with (clone / "pyproject.toml").open("a") as project:
        project.write("# changed\n")
    set_up(clone)
    assert len(installations(clone)) == 2


def test_each_script_has_a_stamp_of_its_own(clone: Path) -> None:
    put_python(clone, "python3")
    set_up(clone, "demo -e .")
    set_up(clone, "tests -e . --group dev")
    set_up(clone, "demo -e .")
    assert len(installations(clone)) == 2


def test_a_failed_installation_leaves_no_stamp(clone: Path) -> None:
    put_python(clone, "python3")
    set_up(clone)
    (clone / ".venv/bin/python").write_text('#!/usr/bin/env bash\n[ "$1" = -c ]\n')
    (clone / ".venv/.installed-demo").unlink()
    assert set_up(clone).returncode != 0
    assert not (clone / ".venv/.installed-demo").exists()
