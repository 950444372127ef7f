"""The import contract of docs/architecture.md holds, and it would notice if it did not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "headrace"


def lint_imports(source: Path) -> subprocess.CompletedProcess[str]:
    """Runs the contract of pyproject.toml over the package that lies in `source`."""
    command = [
        str(Path(sys.executable).with_name("lint-imports")),
        "--no-cache",
        "--config",
        str(ROOT / "pyproject.toml"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    return subprocess.run(
        command, cwd=source, env=environment, capture_output=True, text=True, timeout=100, check=False
    )


def test_the_package_keeps_the_import_contract() -> None:
    result = lint_imports(ROOT / "src")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("importer", "imported"),
    [("wire", "router"), ("proxy", "controller"), ("replica", "controller"), ("engine", "wire"), ("cli", "controller")],
)
def test_a_forbidden_import_breaks_the_contract(tmp_path: Path, importer: str, imported: str) -> None:
    shutil.copytree(PACKAGE, tmp_path / "headrace", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "headrace" / importer / "intruder.py").write_text(f"import headrace.{imported}\n")
    result = lint_imports(tmp_path)
    assert result.returncode != 0
    assert f"headrace.{importer}.intruder" in result.stdout


def test_every_top_level_module_has_a_row_in_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract for contract in contracts if contract["type"] == "layers")["layers"]
    listed = {name.strip() for layer in layers for name in layer.replace("|", ":").split(":")}
    present = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert present - listed == {"__init__"}
