"""`VLLMEngine`: vLLM's engine, and its own OpenAI layer, in the replica."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil

import headrace as serve
from headrace.context import GangContext
from headrace.exceptions import ConfigError, HeadraceError
from headrace.llm.config.llm_config import LLMConfig
from headrace.llm.engines.protocol import EngineLoad, EngineRequest, EngineResponse, LoadingProgress, ModelInfo
from headrace.llm.engines.vllm import imports
from headrace.llm.engines.vllm.adapters import Adapters
from headrace.llm.engines.vllm.arguments import serve_arguments
from headrace.llm.engines.vllm.asgi_call import api_paths, call, error_response
from headrace.llm.engines.vllm.load_recorder import LoadRecorder
from headrace.llm.engines.vllm.loading import Loading
from headrace.llm.engines.vllm.ray_executor import use_placement_group
from headrace.llm.engines.vllm.usage import count_requests, counting

logger = logging.getLogger("headrace.llm.vllm")

PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/embeddings",
        "/v1/score",
        "/score",
        "/v1/rerank",
        "/v2/rerank",
        "/rerank",
        "/classify",
        "/pooling",
        "/tokenize",
        "/detokenize",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
    }
)
"""Paths of the API that vLLM may answer, depending on the model."""

_WORKER_EXTENSION = "headrace.llm.engines.vllm.worker_extension.WorkerExtension"
# What of vLLM's has not ended by then is killed. Its processes have nothing to save, and take much longer to take their
# interpreters apart.
_SECONDS_TO_STOP = 1.0
_DEATH_CHECKED_EVERY_S = 0.2
# Paths whose requests may say how urgent they are.
_WITH_PRIORITY = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})


class VLLMEngine:
    """Runs one model with vLLM.

    vLLM's engine core (and its workers) are child processes of this one, as with `vllm serve`. Its front runs here, and
    answers are those of the application that `vllm serve` would put behind its HTTP server.

    Args:
        config: `engine_kwargs` are the arguments of `vllm serve`, with underscores.
    """

    def __init__(self, config: LLMConfig) -> None:
        self._config = config
        self._loads = LoadRecorder()
        self._vllm: ModuleType | None = None
        self._engine: Any = None
        self._app: Any = None
        self._lifespan = contextlib.AsyncExitStack()
        self._adapters: Adapters | None = None
        self._paths: frozenset[str] = frozenset()
        self._with_priorities = False
        self._loading: asyncio.Task[Any] | None = None
        self._others: set[int] = set()
        self._started: list[psutil.Process] = []
        self._watching: asyncio.Task[None] | None = None

    # Start.

    async def start(self, report: Callable[[LoadingProgress], None]) -> ModelInfo:
        """See `InferenceEngine.start`. Arguments are checked before anything is loaded."""
        with Loading(report) as loading:
            loading.tell(LoadingProgress("importing vLLM"))
            # vLLM's app would ask for this key too, but the front, which checks keys, does not pass them on.
            os.environ.pop("VLLM_API_KEY", None)
            # vLLM's own commands do this too: forking a process with threads, or with CUDA in use, ends badly.
            os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
            if self._config.lora_config is not None:
                # What else it switches on, requests that load adapters, is not among our paths.
                os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
            self._vllm = vllm = await asyncio.to_thread(imports.load)
            args, vllm_config = await asyncio.to_thread(self._engine_config, vllm)
            loading.tell(LoadingProgress("loading weights"))
            self._others = {child.pid for child in psutil.Process().children()}
            self._loading = asyncio.create_task(asyncio.to_thread(self._load, vllm, args, vllm_config))
            self._engine = engine = await asyncio.shield(self._loading)
            count_requests(engine.output_processor)
            self._started = self._processes()
            loading.tell(LoadingProgress("warming up"))
            await engine.reset_mm_cache()
            tasks = await engine.get_supported_tasks()
            self._app = app = vllm.build_app(args, tasks, engine.model_config)
            await vllm.init_app_state(engine, app.state, args, tasks)
            # vLLM tells its HTTP server to end when the engine core has died. We look ourselves.
            app.state.server = SimpleNamespace(should_exit=False)
            await self._lifespan.enter_async_context(app.router.lifespan_context(app))
            weights = await self._weights_bytes(args)
            loading.tell(LoadingProgress("ready", 1.0, weights))
        self._adapters = Adapters(
            vllm, engine, app.state.openai_serving_models, self._config.model_id, self._config.lora_config
        )
        self._paths = api_paths(app.routes, PATHS)
        self._with_priorities = engine.scheduler_config.policy == "priority"
        self._watching = asyncio.create_task(self._watch(engine))
        return ModelInfo(
            model_id=self._config.model_id,
            max_model_len=engine.model_config.max_model_len,
            paths=self._paths,
            weights_bytes=weights,
            engine="vllm",
            max_num_seqs=engine.scheduler_config.max_num_seqs * engine.vllm_config.parallel_config.data_parallel_size,
        )

    def _engine_config(self, vllm: ModuleType) -> tuple[Any, Any]:
        args = serve_arguments(self._config, vllm)
        use_placement_group(args, _gang())
        if args.worker_extension_cls in (None, ""):
            args.worker_extension_cls = _WORKER_EXTENSION
        vllm.configure_logging_from_args(args)
        if args.tool_parser_plugin:
            vllm.ToolParserManager.import_tool_parser(args.tool_parser_plugin)
        if args.reasoning_parser_plugin:
            vllm.ReasoningParserManager.import_reasoning_parser(args.reasoning_parser_plugin)
        try:
            engine_args = vllm.AsyncEngineArgs.from_cli_args(args)
            vllm.propagate_flash_late_interaction(args, engine_args)
            return args, engine_args.create_engine_config(usage_context=vllm.UsageContext.OPENAI_API_SERVER)
        except (ValueError, TypeError, OSError, NotImplementedError) as error:
            raise ConfigError(f"LLMConfig of '{self._config.model_id}': vLLM refuses it: {_said(error)}") from error

    def _load(self, vllm: ModuleType, args: Any, vllm_config: Any) -> Any:
        return vllm.AsyncLLM.from_vllm_config(
            vllm_config=vllm_config,
            usage_context=vllm.UsageContext.OPENAI_API_SERVER,
            stat_loggers=[self._loads.factory],
            enable_log_requests=args.enable_log_requests,
            aggregate_engine_logging=args.aggregate_engine_logging,
            disable_log_stats=args.disable_log_stats,
        )

    async def _weights_bytes(self, args: Any) -> int | None:
        if args.worker_extension_cls != _WORKER_EXTENSION:
            return None
        by_worker: list[int] = await self._engine.collective_rpc("headrace_weights_bytes")
        return sum(by_worker)

    # Requests.

    async def respond(self, request: EngineRequest) -> EngineResponse:
        """See `InferenceEngine.respond`."""
        if request.path not in self._paths:
            return error_response(404, f"this model does not answer {request.path}", "NotFoundError")
        if request.priority and self._with_priorities and request.path in _WITH_PRIORITY:
            request = EngineRequest(
                request.path,
                _with_priority(request.body, request.priority),
                request.request_id,
                request.headers,
                request.received_at,
            )
        with counting() as usage:
            response = await call(self._app, request)
        return replace(response, usage=usage)

    async def check_health(self) -> None:
        """See `InferenceEngine.check_health`. Fails as soon as a process of vLLM's has ended."""
        if self._engine is None:
            raise RuntimeError("vLLM has not started")
        await self._engine.check_health()

    async def _watch(self, engine: Any) -> None:
        """Have the replica replaced when the engine core has died: it cannot be started again by itself."""
        # vLLM has nothing to wait on for this.
        while not engine.errored:  # noqa: ASYNC110
            await asyncio.sleep(_DEATH_CHECKED_EVERY_S)
        with contextlib.suppress(HeadraceError):  # outside of a replica whoever uses the engine sees to it
            serve.get_replica_context().fail("vLLM's engine core has died")

    def load(self) -> EngineLoad:
        """See `InferenceEngine.load`."""
        if self._engine is None:
            return EngineLoad(0, 0)
        return self._loads.load(self._engine.get_num_unfinished_requests)

    async def metrics(self) -> bytes:
        """vLLM's own metrics in Prometheus's text format."""
        from prometheus_client import REGISTRY, generate_latest

        return await asyncio.to_thread(generate_latest, REGISTRY)

    # Adapters.

    async def add_adapter(self, name: str, path: str) -> None:
        """See `InferenceEngine.add_adapter`."""
        await self._started_adapters().add(name, path)

    async def remove_adapter(self, name: str) -> None:
        """See `InferenceEngine.remove_adapter`."""
        await self._started_adapters().remove(name)

    def _started_adapters(self) -> Adapters:
        if self._adapters is None:
            raise RuntimeError("vLLM has not started")
        return self._adapters

    # Sleep.

    async def sleep(self, level: int) -> None:
        """See `InferenceEngine.sleep`. What is being generated is aborted, and requests wait until `wake`.

        On CPUs the weights are in main memory already and vLLM frees nothing, so that there is no level 2.

        Raises:
            ConfigError: the engine was started without `enable_sleep_mode`, or cannot sleep like this.
        """
        if level not in (1, 2):
            raise ConfigError(f"level: must be 1 or 2, not {level!r}")
        if self._on_cpu():
            if level == 2:
                raise ConfigError("level: on CPUs vLLM cannot drop a model's weights; it can sleep at level 1 only")
        elif not self._engine.model_config.enable_sleep_mode:
            raise ConfigError("this model cannot sleep: set engine_kwargs.enable_sleep_mode to true")
        await self._engine.sleep(level)

    async def wake(self) -> None:
        """See `InferenceEngine.wake`."""
        await self._engine.wake_up()

    def _on_cpu(self) -> bool:
        return self._vllm is not None and bool(self._vllm.current_platform.is_cpu())

    # Stop.

    async def stop(self) -> None:
        """See `InferenceEngine.stop`."""
        if self._engine is None and self._loading is not None:
            # The start was given up, or failed. A thread cannot be: what it started is ended below.
            self._loading.add_done_callback(_shut_down_late)
        if self._watching is not None:
            self._watching.cancel()
        mine = list({*self._started, *self._processes()})
        engine, self._engine = self._engine, None
        if engine is not None:
            with contextlib.suppress(Exception):
                await self._lifespan.aclose()
            if engine.output_handler is not None:
                engine.output_handler.cancel()  # that the engine core ends is no failure
            await asyncio.to_thread(engine.shutdown, _SECONDS_TO_STOP)
        if self._adapters is not None:
            self._adapters.close()
        await asyncio.to_thread(_end, mine)

    def _processes(self) -> list[psutil.Process]:
        """The engine core and its workers."""
        if self._loading is None:
            return []
        started = [child for child in psutil.Process().children() if child.pid not in self._others]
        mine = [child for child in started if _is_of_vllm(child)]
        for child in list(mine):
            with contextlib.suppress(psutil.Error):
                mine += child.children(recursive=True)
        return mine


def _gang() -> GangContext | None:
    with contextlib.suppress(HeadraceError):  # outside of a replica
        return serve.get_replica_context().gang_context
    return None


def _with_priority(body: bytes, priority: int) -> bytes:
    """A JSON object with vLLM's `priority` in front. Of two fields of one name the last counts, so that what a client
    says itself stays."""
    begin, brace, rest = body.partition(b"{")
    comma = b"" if rest.lstrip().startswith(b"}") else b","
    return begin + brace + b'"priority":' + str(priority).encode() + comma + rest if brace else body


def _said(error: BaseException) -> str:
    """What pydantic says of itself beside the mistake is left out."""
    errors = getattr(error, "errors", None)
    if callable(errors):
        with contextlib.suppress(TypeError):
            return "; ".join(
                (".".join(map(str, found["loc"])) + ": " if found["loc"] else "") + str(found["msg"])
                for found in errors(include_url=False)
            )
    return str(error)


def _shut_down_late(loading: asyncio.Task[Any]) -> None:
    if not loading.cancelled() and loading.exception() is None:
        loading.result().shutdown(0)


def _is_of_vllm(process: psutil.Process) -> bool:
    # They begin as processes of multiprocessing, and take names of their own.
    with contextlib.suppress(psutil.Error):
        command = " ".join(process.cmdline())
        return ("multiprocessing" in command and "resource_tracker" not in command) or "VLLM" in command
    return False


def _end(processes: list[psutil.Process]) -> None:
    """Those that outlived the shutdown."""
    _, alive = psutil.wait_procs(processes, timeout=0.1)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=2)
