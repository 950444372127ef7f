"""`/v1/files` and `/v1/batches` of OpenAI's API, in front of a `BatchService`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

import headrace as serve
from headrace.llm.api.errors import ApiError, nearest
from headrace.llm.api.front import OWNER
from headrace.llm.batch.lines import PATHS

MAX_PAGE = 100


class _NewBatch(msgspec.Struct):
    input_file_id: str
    endpoint: str
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None


class BatchRoutes:
    """An ASGI application for both paths and all below them.

    Args:
        service: handle to the `BatchService`.
        max_file_bytes: longest file that may be uploaded.
    """

    def __init__(self, service: serve.DeploymentHandle[Any], max_file_bytes: int) -> None:
        self._service = service
        self._max_file_bytes = max_file_bytes
        self._router = Router(
            [
                Route("/v1/files", self._files, methods=["GET"]),
                Route("/v1/files", self._create_file, methods=["POST"]),
                Route("/v1/files/{id}", self._file, methods=["GET"]),
                Route("/v1/files/{id}", self._delete_file, methods=["DELETE"]),
                Route("/v1/files/{id}/content", self._content, methods=["GET"]),
                Route("/v1/batches", self._batches, methods=["GET"]),
                Route("/v1/batches", self._create_batch, methods=["POST"]),
                Route("/v1/batches/{id}", self._batch, methods=["GET"]),
                Route("/v1/batches/{id}/cancel", self._cancel_batch, methods=["POST"]),
            ]
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._router(scope, receive, send)

    # Files.

    async def _create_file(self, request: Request) -> Response:
        if int(request.headers.get("content-length") or 0) > self._max_file_bytes + 2**16:
            raise ApiError(413, f"a file has at most {self._max_file_bytes:,} bytes", code="file_too_large")
        try:
            form = await request.form(max_files=1, max_fields=10)
        except AssertionError:
            message = "uploads need the package python-multipart at the server: pip install 'headrace[llm]'"
            raise ApiError(501, message) from None
        try:
            file, purpose = form.get("file"), form.get("purpose")
            if file is None or isinstance(file, str):
                raise ApiError(400, "'file' is required: the file to upload, as multipart/form-data", param="file")
            if purpose != "batch":
                raise ApiError(400, f"'purpose' must be 'batch', not {purpose!r}", param="purpose")
            content = await file.read()
            filename = file.filename or "batch.jsonl"
        finally:
            await form.close()
        if len(content) > self._max_file_bytes:
            raise ApiError(413, f"a file has at most {self._max_file_bytes:,} bytes", code="file_too_large")
        created = await self._service.create_file.remote(filename, purpose, content, _owner(request))
        return _json(created)

    async def _files(self, request: Request) -> Response:
        return _page(request, await self._service.files.remote(_owner(request)))

    async def _file(self, request: Request) -> Response:
        file_id = request.path_params["id"]
        return _json(_found(await self._service.file.remote(file_id, _owner(request)), "file", file_id))

    async def _delete_file(self, request: Request) -> Response:
        file_id = request.path_params["id"]
        if not await self._service.delete_file.remote(file_id, _owner(request)):
            _found(None, "file", file_id)
        return _json({"id": file_id, "object": "file", "deleted": True})

    async def _content(self, request: Request) -> Response:
        file_id = request.path_params["id"]
        content = _found(await self._service.content.remote(file_id, _owner(request)), "file", file_id)
        return Response(content, media_type="application/jsonl")

    # Batches.

    async def _create_batch(self, request: Request) -> Response:
        try:
            new = msgspec.json.decode(await request.body(), type=_NewBatch)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ApiError(400, f"wrong body: {error}", code="invalid_body") from None
        if new.endpoint not in PATHS:
            raise ApiError(
                400, f"'endpoint' cannot be {new.endpoint!r}; {nearest(new.endpoint, PATHS)}", param="endpoint"
            )
        if new.completion_window != "24h":
            raise ApiError(400, "'completion_window' must be '24h'", param="completion_window")
        batch = await self._service.create_batch.remote(new.input_file_id, new.endpoint, new.metadata, _owner(request))
        return _json(_found(batch, "file", new.input_file_id, param="input_file_id"))

    async def _batches(self, request: Request) -> Response:
        return _page(request, await self._service.batches.remote(_owner(request)))

    async def _batch(self, request: Request) -> Response:
        batch_id = request.path_params["id"]
        return _json(_found(await self._service.batch.remote(batch_id, _owner(request)), "batch", batch_id))

    async def _cancel_batch(self, request: Request) -> Response:
        batch_id = request.path_params["id"]
        return _json(_found(await self._service.cancel_batch.remote(batch_id, _owner(request)), "batch", batch_id))


def _owner(request: Request) -> str:
    return str(request.scope[OWNER])


def _found(found: Any, what: str, given_id: str, param: str = "id") -> Any:
    if found is None:
        raise ApiError(404, f"there is no {what} {given_id!r}", code=f"{what}_not_found", param=param)
    return found


def _page(request: Request, records: Sequence[Any]) -> Response:
    """One page of a list, by OpenAI's `limit` and `after`."""
    limit, after = request.query_params.get("limit", str(MAX_PAGE)), request.query_params.get("after")
    if not limit.isdecimal() or not 1 <= int(limit) <= 10_000:
        raise ApiError(400, f"'limit' must be a number from 1 to 10000, not {limit!r}", param="limit")
    start = next((i + 1 for i, record in enumerate(records) if record.id == after), 0)
    page = records[start : start + int(limit)]
    return _json(
        {
            "object": "list",
            "data": page,
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
            "has_more": start + len(page) < len(records),
        }
    )


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
