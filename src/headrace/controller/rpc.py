"""The controller's calls, as drivers, proxies and replicas make them over the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from headrace.config.spec import (
    ApplicationHistory,
    ChangedRequest,
    DeleteRequest,
    DeployReply,
    DeployRequest,
    HistoryRequest,
    InstanceStatus,
    ReportLoadRequest,
    ReportModelsRequest,
    ReportStatsRequest,
    RollbackReply,
    RollbackRequest,
    StatusRequest,
    WatchRequest,
    WatchUpdate,
)
from headrace.controller.controller import Controller
from headrace.observe.exposition import Family
from headrace.wire.rpc import RpcServer


def rpc_server(controller: Controller) -> RpcServer:
    """Serves `deploy`, `delete`, `history`, `rollback`, `status`, `config`, `changed`, `watch`, `report_load`,
    `report_models`, `report_stats`, `metrics` and `shutdown`.

    `status_of` tells of some applications what `status` tells of all.
    What is wrong with a request arrives at its caller as an `RpcError` of kind `ConfigError`.
    """

    async def deploy(body: DeployRequest) -> DeployReply:
        return DeployReply(deployed=controller.deploy(body.applications, body.replace_all))

    async def delete(body: DeleteRequest) -> None:
        controller.delete(body.names)

    async def history(body: HistoryRequest) -> ApplicationHistory:
        return controller.history(body.app)

    async def rollback(body: RollbackRequest) -> RollbackReply:
        return controller.rollback(body.app, body.to)

    async def status() -> InstanceStatus:
        return await controller.status()

    async def status_of(body: StatusRequest) -> InstanceStatus:
        return await controller.status(body.names)

    async def config() -> dict[str, Any]:
        return controller.config.model_dump(mode="json")

    async def changed(body: ChangedRequest) -> int:
        return await controller.changed(body.since)

    async def watch(body: WatchRequest) -> AsyncIterator[WatchUpdate]:
        with controller.callers.watching(body.caller):
            async for update in controller.hub.watch(body):
                yield update

    async def report_models(body: ReportModelsRequest) -> None:
        controller.report_models(body.replica_id, body.model_ids)

    async def report_load(body: ReportLoadRequest) -> None:
        controller.report_load(body.caller, body.loads, body.latencies)

    async def report_stats(body: ReportStatsRequest) -> None:
        controller.report_stats(body.replica_id, body.stats)

    async def metrics(prefix: str) -> list[Family]:
        return await controller.metrics.families(prefix)

    async def shutdown() -> None:
        await controller.shutdown()

    handlers: dict[str, Callable[..., Any]] = {
        "deploy": deploy,
        "delete": delete,
        "history": history,
        "rollback": rollback,
        "status": status,
        "status_of": status_of,
        "config": config,
        "changed": changed,
        "watch": watch,
        "report_load": report_load,
        "report_models": report_models,
        "report_stats": report_stats,
        "metrics": metrics,
        "shutdown": shutdown,
    }
    return RpcServer(handlers)
