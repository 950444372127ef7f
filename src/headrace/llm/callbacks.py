"""Hooks of the user's around the start of an engine, as `callback_config` names them."""

from __future__ import annotations

import importlib
import inspect
import logging
from typing import Any

from headrace.exceptions import ConfigError, HeadraceError
from headrace.llm.config.callback import CallbackConfig
from headrace.llm.config.llm_config import LLMConfig

logger = logging.getLogger("headrace.llm")


class CallbackBase:
    """What `callback_config.callback_class` derives from. Hooks may be `async` or not; the names are Ray Serve LLM's.

    Args:
        llm_config: of the model that is about to be loaded.
        kwargs: `callback_kwargs`.
    """

    def __init__(self, llm_config: LLMConfig, **kwargs: Any) -> None:
        self.llm_config = llm_config
        self.kwargs = kwargs

    async def on_before_node_init(self) -> None:
        """Called in each replica before its engine starts: the place to fetch what the model needs."""

    async def on_after_node_init(self) -> None:
        """Called in each replica when its model can answer."""


class Callbacks:
    """The hooks of one replica.

    Args:
        config: which class they are of.
        llm_config: what the class is made with.

    Raises:
        ConfigError: the class cannot be imported.
    """

    def __init__(self, config: CallbackConfig, llm_config: LLMConfig) -> None:
        self._raises = config.raise_error_on_callback
        self._callback: Any = None
        if config.callback_class is not None:
            self._callback = _imported(config.callback_class)(llm_config=llm_config, **config.callback_kwargs)

    async def run(self, hook: str) -> None:
        """Call a hook, if there is one.

        Raises:
            HeadraceError: it raised, and `raise_error_on_callback` is set.
        """
        function = getattr(self._callback, hook, None)
        if function is None:
            return
        try:
            result = function()
            if inspect.isawaitable(result):
                await result
        except Exception as error:
            text = f"callback {type(self._callback).__name__}.{hook} raised {type(error).__name__}: {error}"
            if self._raises:
                raise HeadraceError(text) from error
            logger.error("%s", text, exc_info=error)


def _imported(path: str) -> Any:
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"callback_config.callback_class: cannot import {path!r}: {error}") from error
