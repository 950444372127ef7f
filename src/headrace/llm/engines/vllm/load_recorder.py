"""Keeps what vLLM's scheduler says of itself with every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headrace.llm.engines.protocol import EngineLoad


class LoadRecorder:
    """Takes the place of a logger of statistics in vLLM: `factory` goes into its `stat_loggers`.

    vLLM says something with each step only. What is true between steps, above all that nothing runs any more, is told
    by the number of requests that are not finished, which its front knows.
    """

    def __init__(self) -> None:
        self._latest: dict[int, tuple[int, int, float]] = {}

    def factory(self, vllm_config: Any, engine_index: int = 0) -> _PerEngine:
        """What vLLM calls for each of its engine cores."""
        return _PerEngine(self, engine_index)

    def record(self, engine_index: int, running: int, waiting: int, kv_cache_use: float) -> None:
        self._latest[engine_index] = (running, waiting, kv_cache_use)

    def load(self, unfinished: Callable[[], int]) -> EngineLoad:
        """What the engine is busy with now.

        Args:
            unfinished: tells how many requests are not finished.
        """
        number = unfinished()
        if number == 0 or not self._latest:
            return EngineLoad(running=0, waiting=number, kv_cache_use=0.0)
        latest = self._latest.values()
        running = min(sum(running for running, _, _ in latest), number)
        return EngineLoad(running, number - running, max(use for _, _, use in latest))


class _PerEngine:
    """What vLLM takes for a `StatLoggerBase`; it asks for these methods alone."""

    def __init__(self, recorder: LoadRecorder, engine_index: int) -> None:
        self._recorder = recorder
        self._engine_index = engine_index

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        if scheduler_stats is not None:
            waiting = scheduler_stats.num_waiting_reqs + getattr(scheduler_stats, "num_skipped_waiting_reqs", 0)
            self._recorder.record(
                self._engine_index, scheduler_stats.num_running_reqs, waiting, scheduler_stats.kv_cache_usage
            )

    def log_engine_initialized(self) -> None:
        """Nothing to say."""

    def log(self) -> None:
        """Nothing to say."""

    def record_sleep_state(self, is_awake: int, level: int) -> None:
        """Nothing to keep."""
