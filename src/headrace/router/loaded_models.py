"""Which multiplexed models this replica holds; set by `multiplexed`, reported by the replica."""

from __future__ import annotations

from collections.abc import Callable

_listener: Callable[[list[str]], None] | None = None
_loaded: list[str] = []


def set_models_listener(listener: Callable[[list[str]], None] | None) -> None:
    """Have `listener` called with all loaded models' ids whenever they change."""
    global _listener
    _listener = listener


def loaded_model_ids() -> list[str]:
    """The models that are loaded now, of every loader in this process."""
    return list(_loaded)


def models_changed(model_ids: list[str]) -> None:
    """Note that these are the loaded models from now on."""
    global _loaded
    _loaded = list(model_ids)
    if _listener is not None:
        _listener(list(model_ids))
