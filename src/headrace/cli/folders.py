"""Where the user's modules are found."""

from __future__ import annotations

import os
import sys

from headrace.exceptions import ConfigError


def import_from(app_dir: str) -> None:
    """Look for modules in `app_dir` first.

    Raises:
        ConfigError: there is no such folder.
    """
    if not os.path.isdir(app_dir):
        raise ConfigError(f"--app-dir: there is no folder '{app_dir}'")
    folder = os.path.abspath(app_dir)
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)


def forget_modules_in(folder: str) -> None:
    """Drop imported modules whose files are below `folder`, so that the next import reads them again."""
    inside = os.path.join(os.path.realpath(folder), "")
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name != "__main__" and file and os.path.realpath(file).startswith(inside) and not _installed(file):
            del sys.modules[name]


def _installed(file: str) -> bool:
    # A virtual environment often lies in the project's own folder.
    return os.path.realpath(file).startswith(os.path.join(os.path.realpath(sys.prefix), "")) or "site-packages" in file
