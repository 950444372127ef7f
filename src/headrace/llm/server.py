"""`LLMServer`: the deployment that holds one model's inference engine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

from pydantic import BaseModel

import headrace as serve
from headrace.exceptions import HeadraceError
from headrace.llm.adapters import HeldAdapters, known_adapters
from headrace.llm.api import AnswerItem, LocalBackend, answer_items, create_front
from headrace.llm.batch.priority_gate import PriorityGate
from headrace.llm.callbacks import Callbacks
from headrace.llm.config.llm_config import LLMConfig
from headrace.llm.engines import make_engine
from headrace.llm.engines.protocol import (
    EngineLoad,
    EngineRequest,
    EngineResponse,
    InferenceEngine,
    LoadingProgress,
    ModelInfo,
)
from headrace.llm.latency_window import LatencyWindow
from headrace.llm.method_requests import PATHS, answer_of, request_body
from headrace.llm.metrics.answers import AnswerMetrics, AnswerRecord, outcome_of
from headrace.llm.refusals import asleep_response, overloaded_response
from headrace.llm.server_options import batch_places, most_under_way, server_name, server_options
from headrace.llm.sleep_routes import HandleSleeper, sleep_mounts
from headrace.llm.warm_up import warm_up
from headrace.llm.watched_stream import WatchedStream

logger = logging.getLogger("headrace.llm")


@serve.ingress()
class LLMServer:
    """Serves one model: OpenAI's API over HTTP, the same as methods of a handle.

    ```python
    app = LLMServer.bind(LLMConfig(model="Qwen/Qwen2.5-0.5B-Instruct"))
    serve.run(app)
    ```

    A replica counts as started when its model can answer. Subclasses may override any method.
    """

    # What awaits while it is made, the replica awaits: its event loop stays free for those who ask how it is.
    async def __init__(self, llm_config: LLMConfig | Mapping[str, Any]) -> None:  # type: ignore[misc]
        config = llm_config if isinstance(llm_config, LLMConfig) else LLMConfig(**llm_config)
        self._llm_config = config
        self._latencies = LatencyWindow()
        self._awake = asyncio.Event()
        self._awake.set()
        self._stage = ""
        lora = config.lora_config
        self._adapters = None if lora is None else HeldAdapters(config.model_id, lora.max_num_adapters_per_replica)
        callbacks = Callbacks(config.callback_config, config)
        await callbacks.run("on_before_node_init")
        self.engine: InferenceEngine = make_engine(config)
        began = time.monotonic()
        try:
            self.model_info = await self.engine.start(self._report_progress)
            if config.warmup:
                await warm_up(self.engine, self.model_info, self._report_progress)
            await callbacks.run("on_after_node_init")
        except BaseException:
            await self.engine.stop()
            raise
        self._gate = PriorityGate(batch_places(config, self.model_info))
        self._most_under_way = most_under_way(config, self.model_info)
        self._metrics = AnswerMetrics(config.model_id, self.model_info.paths, self.model_info.engine)
        self._metrics.watch(self.engine.load)
        logger.info("model %s is ready after %.1f s", config.model_id, time.monotonic() - began)

    @classmethod
    def bind(cls, llm_config: LLMConfig | Mapping[str, Any] | str, **kwargs: Any) -> serve.Application[Any]:
        """An application that serves the model of a config, with the deployment options that follow from it.

        Args:
            llm_config: a config, a dict with its fields, or the path of a YAML file.
            kwargs: more arguments of the constructor, for subclasses.

        Raises:
            ConfigError: the config is wrong, or asks for what this machine cannot give.
        """
        config = read_config(llm_config)
        options = cls.get_deployment_options(config)
        options.setdefault("name", server_name(cls.__name__, config))
        return made_application(cls, options, config, kwargs)

    @classmethod
    def get_deployment_options(cls, llm_config: LLMConfig) -> dict[str, Any]:
        """Options of the deployment: those of the config's `deployment_config`, with defaults for LLMs, and the
        resources that follow from the parallel sizes."""
        return server_options(llm_config)

    def _report_progress(self, progress: LoadingProgress) -> None:
        done = "" if progress.fraction is None else f" {progress.fraction:.0%}"
        memory = "" if not progress.memory_bytes else f", {progress.memory_bytes / 2**30:.2f} GiB"
        # The log has each stage once, and what the model takes; those who wait see every step in the status.
        level = logging.INFO if memory or progress.stage != self._stage else logging.DEBUG
        self._stage = progress.stage
        logger.log(level, "model %s: %s%s%s", self._llm_config.model_id, progress.stage, done, memory)
        with contextlib.suppress(HeadraceError):  # outside of a replica nobody looks
            serve.get_replica_context().progress = f"{progress.stage}{done}{memory}"

    # HTTP.

    def __serve_build_asgi_app__(self) -> Any:
        backend = LocalBackend(self.answer, self.check_ready, self.model_info, known_adapters(self._llm_config))
        mounts = None
        if self._llm_config.sleep_endpoints:
            replica = serve.get_replica_context()
            every_replica = serve.get_deployment_handle(replica.deployment, replica.app_name)
            mounts = sleep_mounts({self._llm_config.model_id: HandleSleeper(every_replica)})
        return create_front({self._llm_config.model_id: backend}, mounts=mounts)

    async def answer(self, request: EngineRequest) -> EngineResponse:
        """Answer in this process. Closing the body's generator ends the generation."""
        record = self._metrics.begin(request)
        try:
            refusal = await self._enter(request, record)
        except asyncio.CancelledError:
            record.ended("cancelled")
            raise
        if refusal is not None:
            return refusal
        streams = False
        try:
            record.asked()
            response = await self.engine.respond(request)
            if self._adapters is not None and response.status < 400:
                adapter_id = self._adapters.asked_for(request.body)
                if adapter_id:
                    record.adapter = adapter_id.removeprefix(f"{self._llm_config.model_id}:")
                    await self._adapters.note(adapter_id)
            record.usage = response.usage
            if isinstance(response.body, bytes):
                record.ended(outcome_of(response.status))
                return response
            streams = True
        except asyncio.CancelledError:
            record.ended("cancelled")
            raise
        except Exception:
            record.ended("error")
            raise
        finally:
            if not streams:
                self._gate.leave()
        return replace(response, body=self._watched(response.body, record), times=record.times)

    async def _enter(self, request: EngineRequest, record: AnswerRecord) -> EngineResponse | None:
        """Take a place, or say why there is none: live requests do not wait here, those of batches do."""
        if request.priority > 0:
            await self._awake.wait()
            await self._gate.enter_behind()
            return None
        if not self._awake.is_set():
            record.ended("asleep")
            return asleep_response(self._llm_config.model_id)
        if self._most_under_way is not None and self._gate.under_way >= self._most_under_way:
            record.ended("overloaded")
            return overloaded_response(self._gate.under_way)
        self._gate.enter()
        return None

    def _watched(self, pieces: AsyncGenerator[bytes, None], record: AnswerRecord) -> WatchedStream:
        request, times = record.request, record.times

        def first() -> None:
            record.first()
            if request.priority == 0:
                self._latencies.add(times.first_at - (request.received_at or times.asked_at))

        def end(error: BaseException | None) -> None:
            self._gate.leave()
            if error is None:
                record.ended("finished")
            else:
                given_up = isinstance(error, GeneratorExit | asyncio.CancelledError)
                record.ended("cancelled" if given_up else "error")

        return WatchedStream(pieces, first, end)

    async def respond(self, request: EngineRequest) -> AsyncGenerator[AnswerItem, None]:
        """Answer through a handle with `stream=True`: the items of `headrace.llm.api.answer_items`."""
        return answer_items(await self.answer(request))

    # Methods of the handle.

    async def chat(self, request: Mapping[str, Any] | BaseModel, raw_request_info: Any = None) -> Any:
        """A chat completion: a dict; a generator of chunks where the request says `stream` (and the handle does too).

        Raises:
            LLMRequestError: the engine refuses the request.
        """
        return await self._call("chat", request)

    async def completions(self, request: Mapping[str, Any] | BaseModel, raw_request_info: Any = None) -> Any:
        """A text completion; as `chat`."""
        return await self._call("completions", request)

    async def responses(self, request: Mapping[str, Any] | BaseModel, raw_request_info: Any = None) -> Any:
        """OpenAI's Responses API; as `chat`."""
        return await self._call("responses", request)

    async def messages(self, request: Mapping[str, Any] | BaseModel, raw_request_info: Any = None) -> Any:
        """Anthropic's Messages API; as `chat`."""
        return await self._call("messages", request)

    async def embeddings(self, request: Mapping[str, Any] | BaseModel, raw_request_info: Any = None) -> Any:
        """Embeddings of texts; as `chat`, without streaming."""
        return await self._call("embeddings", request)

    async def score(self, request: Mapping[str, Any] | BaseModel, raw_request_info: Any = None) -> Any:
        """How alike texts are; as `embeddings`."""
        return await self._call("score", request)

    async def rerank(self, request: Mapping[str, Any] | BaseModel, raw_request_info: Any = None) -> Any:
        """Documents in the order of their relevance; as `embeddings`."""
        return await self._call("rerank", request)

    async def tokenize(self, request: Mapping[str, Any] | BaseModel, raw_request_info: Any = None) -> Any:
        """The tokens of a text or chat; as `embeddings`."""
        return await self._call("tokenize", request)

    async def detokenize(self, request: Mapping[str, Any] | BaseModel, raw_request_info: Any = None) -> Any:
        """The text of tokens; as `embeddings`."""
        return await self._call("detokenize", request)

    async def _call(self, method: str, request: Mapping[str, Any] | BaseModel) -> Any:
        body = request_body(request, self._llm_config.model_id)
        context = serve.get_request_context()
        request_id = uuid4().hex if context is None else context.request_id
        response = await self.answer(EngineRequest(PATHS[method], body, request_id, received_at=time.time()))
        return await answer_of(response)

    # What is known of it.

    async def llm_config(self) -> LLMConfig:
        """The config that it was started with, without the `deployment_config`."""
        return self._llm_config

    async def info(self) -> ModelInfo:
        """What is served."""
        return self.model_info

    async def load(self) -> EngineLoad:
        """What the engine is busy with now."""
        return self.engine.load()

    async def check_health(self) -> None:
        """Raises if the model will not answer any more. A sleeping one will."""
        if self._awake.is_set():
            await self.engine.check_health()

    async def check_ready(self) -> None:
        """Raises unless the model can answer now.

        Raises:
            HeadraceError: it sleeps.
            Exception: what the engine's own check raises.
        """
        if not self._awake.is_set():
            raise HeadraceError(f"model {self._llm_config.model_id!r} sleeps; call wakeup()")
        await self.engine.check_health()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Figures that `autoscaling_config.target_metrics` may aim at: `running`, `waiting`, `kv_cache_use` (0 to 1,
        where the engine tells it), `ttft_p50_s` and `ttft_p95_s` (of streamed answers of the last minute)."""
        load = self.engine.load()
        figures: dict[str, float] = {"running": load.running, "waiting": load.waiting}
        if load.kv_cache_use is not None:
            figures["kv_cache_use"] = load.kv_cache_use
        for name, share in (("ttft_p50_s", 0.5), ("ttft_p95_s", 0.95)):
            latency = self._latencies.quantile(share)
            if latency is not None:
                figures[name] = latency
        return figures

    # Sleep.

    async def sleep(self, level: int = 1) -> None:
        """Free the model's memory: 1 keeps the weights in main memory, 2 drops them too. Live requests are refused from
        now on, those of batches wait."""
        awake = self._awake.is_set()
        self._awake.clear()  # first, so that nothing begins with a model that falls asleep
        try:
            await self.engine.sleep(level)
        except BaseException:
            if awake:
                self._awake.set()
            raise

    async def wakeup(self) -> None:
        """Be as before `sleep`."""
        await self.engine.wake()
        self._awake.set()

    async def is_sleeping(self) -> bool:
        """Whether it was put to sleep."""
        return not self._awake.is_set()

    async def __del__(self) -> None:
        engine = getattr(self, "engine", None)
        if engine is not None:
            await asyncio.shield(engine.stop())


def made_application(
    cls: type[Any], options: Mapping[str, Any], config: LLMConfig, kwargs: Mapping[str, Any]
) -> serve.Application[Any]:
    """A deployment of `cls` with these options, bound to a config.

    Replicas do not get the part that is the deployment's own: so a change of it, of the number of replicas above all,
    restarts none of them.
    """
    config = config.model_copy(update={"deployment_config": {}})
    deployment: serve.Deployment[..., Any] = serve.deployment(**options)(cls)
    return deployment.bind(config, **kwargs)


def read_config(given: LLMConfig | Mapping[str, Any] | str) -> LLMConfig:
    """A config from what users give: one, its fields, or the path of a YAML file.

    Raises:
        ConfigError: it is wrong.
    """
    if isinstance(given, LLMConfig):
        return given
    return LLMConfig.from_file(given) if isinstance(given, str) else LLMConfig(**given)
