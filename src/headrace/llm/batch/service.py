"""`BatchService`: the deployment that keeps uploaded files and works batches off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import msgspec

import headrace as serve
from headrace.llm.api import HandleBackend
from headrace.llm.api.backend import Affinity
from headrace.llm.api.errors import ApiError, error_for, internal_error, openai_body
from headrace.llm.api.models import ModelTable
from headrace.llm.api.request_fields import read_fields
from headrace.llm.batch.batch_runs import BatchRuns
from headrace.llm.batch.config import BatchConfig
from headrace.llm.batch.folder_lock import FolderLock
from headrace.llm.batch.http_sender import BATCH_PRIORITY
from headrace.llm.batch.lines import BatchRequest, BatchResponse
from headrace.llm.batch.records import BatchRecord, FileRecord
from headrace.llm.batch.store import BatchStore
from headrace.llm.engines.protocol import EngineRequest

WINDOW_S = 24 * 3600


class BatchService:
    """Every method takes the `owner`: what one client uploads, others do not see.

    Args:
        llm_deployments: by model id; applications, which become handles.
        takes_adapters: ids of the models that have LoRA adapters.
        config: see `BatchConfig`.
    """

    async def __init__(  # type: ignore[misc]
        self,
        llm_deployments: Mapping[str, serve.DeploymentHandle[Any]],
        takes_adapters: frozenset[str],
        config: BatchConfig,
    ) -> None:
        self._models = ModelTable(
            {
                model_id: HandleBackend(handle, adapters=() if model_id in takes_adapters else None)
                for model_id, handle in llm_deployments.items()
            }
        )
        folder = config.path / quote(serve.get_replica_context().app_name, safe="")
        self._store = BatchStore(folder)
        self._runs = BatchRuns(self._store, self._send, config.concurrency)
        self._lock = FolderLock(folder)
        self._taking_over = asyncio.create_task(self._take_over())

    async def _take_over(self) -> None:
        await self._lock.acquire()
        self._runs.go_on()

    async def __del__(self) -> None:
        self._taking_over.cancel()
        await self._runs.stop()
        self._store.close()
        self._lock.release()

    # Files.

    async def create_file(self, filename: str, purpose: str, content: bytes, owner: str) -> FileRecord:
        """Keep a file."""
        file_id = self._store.new_file_id()
        self._store.content(file_id).write_bytes(content)
        return self._store.add_file(file_id, filename, purpose, owner)

    @serve.retryable
    async def file(self, file_id: str, owner: str) -> FileRecord | None:
        """What is known of a file; None if the owner has none of that id."""
        return self._store.file(file_id, owner)

    @serve.retryable
    async def files(self, owner: str) -> list[FileRecord]:
        """The owner's files, the latest first."""
        return self._store.files(owner)

    @serve.retryable
    async def content(self, file_id: str, owner: str) -> bytes | None:
        """The bytes of a file; None if the owner has none of that id."""
        if self._store.file(file_id, owner) is None:
            return None
        return self._store.content(file_id).read_bytes()

    async def delete_file(self, file_id: str, owner: str) -> bool:
        """Returns whether there was one."""
        return self._store.delete_file(file_id, owner)

    # Batches.

    async def create_batch(
        self, input_file_id: str, endpoint: str, metadata: dict[str, str] | None, owner: str
    ) -> BatchRecord | None:
        """Begin a batch; None if the owner has no such file."""
        if self._store.file(input_file_id, owner) is None:
            return None
        now = int(time.time())
        batch = BatchRecord(
            id=f"batch_{uuid4().hex}",
            endpoint=endpoint,
            input_file_id=input_file_id,
            completion_window="24h",
            created_at=now,
            expires_at=now + WINDOW_S,
            metadata=metadata,
        )
        self._store.save_batch(batch, owner)
        self._runs.begin(msgspec.structs.replace(batch), owner)
        return batch

    @serve.retryable
    async def batch(self, batch_id: str, owner: str) -> BatchRecord | None:
        """A batch as it is now; None if the owner has none of that id."""
        batch = self._store.batch(batch_id, owner)
        return batch if batch is None else self._counted(batch)

    @serve.retryable
    async def batches(self, owner: str) -> list[BatchRecord]:
        """The owner's batches, the latest first."""
        return [self._counted(batch) for batch in self._store.batches(owner)]

    async def cancel_batch(self, batch_id: str, owner: str) -> BatchRecord | None:
        """End a batch; what is answered is kept."""
        batch = self._store.batch(batch_id, owner)
        if batch is not None:
            self._runs.cancel(batch, owner)
        return batch

    def _counted(self, batch: BatchRecord) -> BatchRecord:
        batch.request_counts = self._runs.counts(batch.id) or batch.request_counts
        return batch

    async def _send(self, request: BatchRequest) -> tuple[BatchResponse, float | None]:
        request_id = uuid4().hex
        try:
            fields = read_fields(request.body)
            if bytes(fields.stream) == b"true":
                raise ApiError(400, "a request of a batch cannot be streamed; leave out 'stream'", param="stream")
            backend, adapter_id = self._models.find(fields.model)
            answer = await backend.respond(
                EngineRequest(
                    request.url, request.body, request_id, received_at=time.time(), priority=int(BATCH_PRIORITY)
                ),
                Affinity(adapter_id),
            )
            if not isinstance(answer.body, bytes):
                await answer.body.aclose()
                raise ApiError(400, "the engine streams its answer, which a batch cannot take")
            wait = answer.headers.get("retry-after")
            response = BatchResponse(answer.status, answer.body, request_id)
        except Exception as exception:
            error = error_for(exception) or internal_error(request_id)
            wait = error.headers.get("retry-after")
            response = BatchResponse(error.status, openai_body(error), request_id)
        return response, None if wait is None else float(wait)
