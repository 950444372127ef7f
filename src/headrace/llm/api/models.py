"""Which model a request asks for, and the lists of models that clients get."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from headrace.llm.api.backend import Backend
from headrace.llm.api.errors import ApiError, nearest


class FoundModel(NamedTuple):
    """A backend, and the id of its adapter that was asked for: "" for the base model."""

    backend: Backend
    adapter_id: str


class ModelTable:
    """The models of an API, by id.

    Args:
        backends: looked at anew with each request: entries may come and go.
    """

    def __init__(self, backends: Mapping[str, Backend]) -> None:
        self._backends = backends
        self._created = int(time.time())

    def find(self, model_id: str | None) -> FoundModel:
        """
        Args:
            model_id: of a model, or `<model id>:<adapter>`. None where the request names none.

        Raises:
            ApiError: 404, with the nearest id; 400 where none is named.
        """
        if not model_id:
            message = f"the request must name a model; {nearest('', self._backends)}"
            raise ApiError(400, message, code="missing_model", param="model")
        backend = self._backends.get(model_id)
        if backend is not None:
            return FoundModel(backend, "")
        end = model_id.rfind(":")
        while end > 0:  # ids of models may hold colons of their own
            backend = self._backends.get(model_id[:end])
            if backend is not None and backend.adapters is not None:
                return FoundModel(backend, model_id)
            end = model_id.rfind(":", 0, end)
        message = f"the model {model_id!r} does not exist; {nearest(model_id, self._ids())}"
        raise ApiError(404, message, code="model_not_found", param="model")

    def only(self) -> str | None:
        """The id of the model, where there is just one."""
        return next(iter(self._backends)) if len(self._backends) == 1 else None

    def backends(self) -> Mapping[str, Backend]:
        """Everything that is served, by id."""
        return self._backends

    async def refresh(self) -> None:
        """Find out anew what is served, as far as models can tell at once."""
        await asyncio.gather(*(backend.refresh_info() for backend in self._backends.values()))

    def openai_list(self) -> dict[str, Any]:
        """The answer to `GET /v1/models`."""
        return {"object": "list", "data": [self._openai_model(*entry) for entry in self._entries()]}

    def openai_model(self, model_id: str) -> dict[str, Any]:
        """The answer to `GET /v1/models/{id}`.

        Raises:
            ApiError: 404.
        """
        return self._openai_model(model_id, self.find(model_id).backend)

    def anthropic_list(self) -> dict[str, Any]:
        """The answer to `GET /v1/models` of Anthropic's clients."""
        models = [self._anthropic_model(model_id) for model_id, _ in self._entries()]
        ids = [model["id"] for model in models]
        return {
            "data": models,
            "has_more": False,
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
        }

    def anthropic_model(self, model_id: str) -> dict[str, Any]:
        """The answer to `GET /v1/models/{id}` of Anthropic's clients.

        Raises:
            ApiError: 404.
        """
        self.find(model_id)
        return self._anthropic_model(model_id)

    def _ids(self) -> list[str]:
        return [model_id for model_id, _ in self._entries()]

    def _entries(self) -> Iterator[tuple[str, Backend]]:
        for model_id, backend in self._backends.items():
            yield model_id, backend
            for name in backend.adapters or ():
                yield f"{model_id}:{name}", backend

    def _openai_model(self, model_id: str, backend: Backend) -> dict[str, Any]:
        info = backend.info
        base = model_id if model_id in self._backends else self._base_of(model_id)
        model: dict[str, Any] = {
            "id": model_id,
            "object": "model",
            "created": self._created,
            "owned_by": "headrace",
            "root": base,
            "parent": None if base == model_id else base,
        }
        if info is not None:
            model["max_model_len"] = info.max_model_len
        return model

    def _base_of(self, model_id: str) -> str:
        end = model_id.rfind(":")
        while end > 0 and model_id[:end] not in self._backends:
            end = model_id.rfind(":", 0, end)
        return model_id[:end]

    def _anthropic_model(self, model_id: str) -> dict[str, Any]:
        created_at = datetime.fromtimestamp(self._created, UTC).isoformat().replace("+00:00", "Z")
        return {"type": "model", "id": model_id, "display_name": model_id, "created_at": created_at}
