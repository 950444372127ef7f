"""The engine's arguments: `engine_kwargs` of an `LLMConfig` whose `llm_engine` is `llamacpp`."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PositiveInt

from headrace.config.model import ConfigModel


class LlamaCppSettings(ConfigModel):
    """
    Attributes:
        max_model_len: tokens of prompt and answer together; None: as many as the model was made for, but 8192 at most,
            since the cache for all requests is taken when the model is loaded.
        max_num_seqs: requests in the batch at once; others wait.
        n_batch: tokens in one pass: of prompts, and one of each request that is writing.
        n_gpu_layers: layers that run on a GPU, where llama.cpp was built for one; -1 for all.
        n_threads: on the CPU; None: as many as there are cores that run two at most.
        chat_template: in place of the model's own: a template, or the path of a file that holds one.
        seed: of requests that have none of their own; None: they differ each time.
    """

    title: ClassVar[str] = "wrong engine_kwargs of the engine 'llamacpp'"

    max_model_len: PositiveInt | None = None
    max_num_seqs: PositiveInt = 4
    n_batch: PositiveInt = 512
    n_gpu_layers: int = Field(default=-1, ge=-1)
    n_threads: PositiveInt | None = None
    chat_template: str | None = None
    seed: int | None = None
