"""The instance that a command starts, and ends."""

from __future__ import annotations

from typing import Any

from headrace.cli.rest import RestClient

_LOOK_EVERY_S = 0.5


class Instance:
    """A context: an instance of this process's own, which ends with the context, or one that goes on without it.

    Attributes:
        detached: it goes on.
        rest: its REST API.
    """

    rest: RestClient

    def __init__(
        self,
        http_options: dict[str, Any],
        *,
        detached: bool,
        proxy_location: str | None = None,
        logging_config: dict[str, Any] | None = None,
        rest_options: dict[str, Any] | None = None,
        **resources: Any,
    ) -> None:
        self.detached = detached
        self._start_options = {
            "http_options": http_options,
            "proxy_location": proxy_location,
            "logging_config": logging_config,
            "rest_options": rest_options,
            **resources,
        }
