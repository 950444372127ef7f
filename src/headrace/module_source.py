"""Where the user's modules come from: whether another process can import them, and what their sources amount to."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import site
import sys
import sysconfig
from functools import cache
from importlib.machinery import ModuleSpec
from types import ModuleType


def is_importable_elsewhere(module: ModuleType) -> bool:
    """Whether a process with the same `sys.path` gets the same module by importing its name.

    Not so for `__main__`, for modules that were built in memory, and for modules that were loaded from a path under a
    name that does not lead to it (notebooks, `spec_from_file_location`, pytest's `--import-mode=importlib`).
    """
    name = module.__name__
    if name == "__main__" or sys.modules.get(name) is not module:
        return False
    if name.partition(".")[0] in sys.stdlib_module_names:
        return True
    spec = _find_spec(name)
    if spec is None:
        return False
    file = getattr(module, "__file__", None)
    if file is None or spec.origin is None:  # a namespace package, or a module that is built into the interpreter
        return file is None
    return bool(os.path.realpath(file) == os.path.realpath(spec.origin))


def _find_spec(name: str) -> ModuleSpec | None:
    """The spec that an import of `name` would find in a fresh process: `sys.modules` is not asked."""
    parent_name, _, _ = name.rpartition(".")
    path = None
    if parent_name:
        parent = sys.modules.get(parent_name)
        if parent is None or not is_importable_elsewhere(parent):
            return None
        path = getattr(parent, "__path__", None)
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path)
        except (ImportError, AttributeError):
            continue
        if spec is not None:
            return spec
    return None


@cache
def _installed_roots() -> tuple[str, ...]:
    """Folders of the standard library and of installed packages, whose files are not the user's code."""
    roots = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots.update(site.getsitepackages())
    roots.add(site.getusersitepackages())
    # The standard library of a virtual environment lies under the base interpreter.
    roots.add(os.path.dirname(os.__file__))
    return tuple(os.path.join(os.path.realpath(root), "") for root in roots)


def user_source(module_name: str) -> str | None:
    """Path of the module's source if it is the user's own code; None for what is installed or has no source."""
    if module_name == "__main__" or module_name.partition(".")[0] in {"headrace", *sys.stdlib_module_names}:
        return None
    module = sys.modules.get(module_name)
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py"):
        return None
    path = os.path.realpath(file)
    return None if path.startswith(_installed_roots()) else path


def user_sources(*module_names: str) -> dict[str, tuple[str, bytes]]:
    """Path and content of the user's modules of these names and of all user modules that they import, directly or
    through others.

    Reading imports from the syntax tree also finds those inside functions; what is imported by a computed name stays
    unseen.
    """
    pending = list(module_names)
    seen = set(pending)
    sources: dict[str, tuple[str, bytes]] = {}
    while pending:
        name = pending.pop()
        path = user_source(name)
        if path is None:
            continue
        try:
            with open(path, "rb") as file:
                source = file.read()
        except OSError:
            continue
        sources[name] = path, source
        for imported in _imported_names(name, source):
            if imported not in seen:
                seen.add(imported)
                pending.append(imported)
    return sources


def source_digest(module_name: str) -> bytes:
    """Digest of a user module's source and of all user modules that it imports; see `user_sources`.

    Empty for modules that are not the user's.
    """
    sources = user_sources(module_name)
    if not sources:
        return b""
    digest = hashlib.blake2b(digest_size=16)
    for name, (_, source) in sorted(sources.items()):
        digest.update(f"{name}\0{len(source)}\0".encode())
        digest.update(source)
    return digest.digest()


def _imported_names(module_name: str, source: bytes) -> list[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    module = sys.modules.get(module_name)
    package = getattr(module, "__package__", None) or module_name.rpartition(".")[0]
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                try:
                    base = importlib.util.resolve_name("." * node.level + base, package)
                except ImportError:
                    continue
            names.append(base)
            # `from package import module` names a module as well.
            names.extend(f"{base}.{alias.name}" for alias in node.names)
    # Importing `a.b.c` runs `a` and `a.b` as well.
    return [".".join(parts[: i + 1]) for name in names for parts in [name.split(".")] for i in range(len(parts))]
