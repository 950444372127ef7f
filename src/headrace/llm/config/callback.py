"""Code of the user's around the start of an engine."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from headrace.config.model import ConfigModel, Flag, ImportPath


class CallbackConfig(ConfigModel):
    """Which class's hooks run in each replica, before and after its engine starts.

    Attributes:
        callback_class: a class derived from `headrace.llm.callbacks.CallbackBase`, or its import path; None for none.
        callback_kwargs: arguments of its constructor.
        raise_error_on_callback: a hook that raises keeps the replica from starting; otherwise it is logged.
    """

    title: ClassVar[str] = "wrong callback_config"

    callback_class: ImportPath | None = None
    callback_kwargs: dict[str, Any] = Field(default_factory=dict)
    raise_error_on_callback: Flag = True
