"""Which multiplexed models this process holds: told by the caches, listened to by the replica.

The replica passes the ids on to the controller and so to the routers, which prefer replicas that hold a model.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger("headrace.multiplex")


class ModelCache(Protocol):
    """One multiplexed loader's models."""

    def model_ids(self) -> list[str]: ...
    async def unload_all(self) -> None: ...


on_models_changed: Callable[[list[str]], None] | None = None
"""Called with the ids of all models that are loaded or being loaded, whenever they change, on the loop's thread."""

_caches: weakref.WeakSet[ModelCache] = weakref.WeakSet()


def set_models_listener(listener: Callable[[list[str]], None] | None) -> None:
    """Have `listener` called with all model ids whenever they change. None: nobody listens any more."""
    global on_models_changed
    on_models_changed = listener


def loaded_model_ids() -> list[str]:
    """The ids of all models that are loaded or being loaded, sorted: requests for both are best sent here."""
    return sorted({model_id for cache in list(_caches) for model_id in cache.model_ids()})


def register(cache: ModelCache) -> None:
    """Count `cache` in, for as long as somebody else holds it."""
    _caches.add(cache)


def changed() -> None:
    """A cache's ids are not what they were."""
    if on_models_changed is None:
        return
    try:
        on_models_changed(loaded_model_ids())
    except Exception:
        # The request that loads a model has no part in this.
        logger.exception("telling which models are loaded failed")


async def unload_all() -> None:
    """Unload every model, with its `__del__`. For a replica that ends."""
    for cache in list(_caches):
        await cache.unload_all()
