"""How many tokens vLLM's answers take, as its own front counts them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class VLLMUsage:
    """Of one request of the API, which may be several of vLLM's: one per prompt and choice.

    vLLM's output processor keeps a state for each of them and counts in it, also while an answer streams, and whether
    or not the client asked for usage. Looking at it when the answer has ended costs nothing per token.
    """

    failed = False

    def __init__(self) -> None:
        self._states: list[Any] = []

    def watch(self, state: Any) -> None:
        """Count a `RequestState` of vLLM's too."""
        self._states.append(state)

    @property
    def prompt_tokens(self) -> int:
        return sum(states[0].prompt_len for states in self._by_prompt())

    @property
    def cached_tokens(self) -> int:
        # Further choices find in the cache what the first one has put there.
        return sum(min(state.num_cached_tokens for state in states) for states in self._by_prompt())

    @property
    def completion_tokens(self) -> int:
        return sum(map(_generated, self._states))

    def _by_prompt(self) -> list[list[Any]]:
        prompts: dict[int, list[Any]] = {}
        for state in self._states:
            whole = state if state.parent_req is None else state.parent_req
            prompts.setdefault(id(whole), []).append(state)
        return list(prompts.values())


def _generated(state: Any) -> int:
    if state.stats is not None:
        return int(state.stats.num_generation_tokens)
    return 0 if state.detokenizer is None else int(state.detokenizer.num_output_tokens())


_current: ContextVar[VLLMUsage | None] = ContextVar("vllm_usage", default=None)


@contextmanager
def counting() -> Iterator[VLLMUsage]:
    """Requests that reach vLLM from here, and from tasks that are started here, are counted together."""
    usage = VLLMUsage()
    token = _current.set(usage)
    try:
        yield usage
    finally:
        _current.reset(token)


def count_requests(output_processor: Any) -> None:
    """Have vLLM's output processor tell `counting` of each request that it gets."""
    add_request = output_processor.add_request

    def add_and_tell(request: Any, *args: Any, **kwargs: Any) -> None:
        add_request(request, *args, **kwargs)
        usage = _current.get()
        state = output_processor.request_states.get(request.request_id)
        if usage is not None and state is not None:
            usage.watch(state)

    output_processor.add_request = add_and_tell
