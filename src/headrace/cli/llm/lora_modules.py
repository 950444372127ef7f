"""`--lora-modules name=folder …`, as `vllm serve` takes them, made a folder of adapters as `LoraConfig` takes it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headrace.exceptions import ConfigError

_FILE = "adapter_config.json"


def adapters_folder(modules: Any, cache: Path) -> Path:
    """A folder with a link to each adapter, by its name.

    Args:
        modules: what follows `--lora-modules`: `name=folder`, or mappings with `name` and `path`, one or several.
        cache: folder in which it is made; the same modules get the same one again.

    Raises:
        ConfigError: there is no adapter in a folder, or a name cannot be one.
    """
    listed = modules if isinstance(modules, list) else [modules]
    folders = dict(_name_and_folder(module) for module in listed)
    if len(folders) < len(listed):
        raise ConfigError("--lora-modules: two adapters have the same name")
    digest = hashlib.sha256("\0".join(f"{name}={folder}" for name, folder in sorted(folders.items())).encode())
    place = cache / digest.hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    for name, folder in folders.items():
        link = place / name
        if not link.is_symlink():
            link.symlink_to(folder, target_is_directory=True)
    return place


def cache_folder() -> Path:
    """Where such folders are made: under `XDG_CACHE_HOME`, or `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "headrace", "adapters")


def _name_and_folder(module: Any) -> tuple[str, Path]:
    if isinstance(module, dict):
        name, path = str(module.get("name") or ""), str(module.get("path") or "")
    else:
        name, _, path = str(module).partition("=")
    if not name or not path or "/" in name or name.startswith("."):
        raise ConfigError(f"--lora-modules: expected NAME=FOLDER, not '{module}'")
    folder = Path(path).absolute()
    if not (folder / _FILE).is_file():
        raise ConfigError(f"--lora-modules: there is no {_FILE} in {folder}, so no adapter '{name}'")
    return name, folder


def lora_config(kwargs: dict[str, Any], modules: Sequence[Any] | Any) -> dict[str, Any]:
    """The `lora_config` for these modules. Of the engine's arguments, `max_cpu_loras` goes into it."""
    count = len(modules) if isinstance(modules, list) else 1
    held = kwargs.pop("max_cpu_loras", None)
    return {
        "dynamic_lora_loading_path": str(adapters_folder(modules, cache_folder())),
        "max_num_adapters_per_replica": int(held) if held is not None else max(count, 16),
    }
