"""What can be set of the simulated engine."""

from __future__ import annotations

from typing import ClassVar

from headrace.config.model import ConfigModel, NonNegativeNumber, PositiveInt


class SimulatedSettings(ConfigModel):
    """The `engine_kwargs` of `llm_engine="simulated"`.

    Attributes:
        time_to_first_token_s: from a request's turn to its first token, seconds; and then up to the next step.
        time_per_output_token_s: between tokens, seconds: the time of a step, which gives each answer a token.
        max_num_seqs: answers that are generated at a time; other requests wait for their turn.
        max_model_len: tokens of prompt and answer together.
        answer_tokens: length of an answer to a request that states no `max_tokens`.
        loading_s: how long loading takes, seconds.
        embedding_dimensions: length of an embedding.
        tensor_parallel_size, pipeline_parallel_size, data_parallel_size: of the GPUs that a replica reserves.
    """

    title: ClassVar[str] = "engine_kwargs of the simulated engine"

    time_to_first_token_s: NonNegativeNumber = 0.0
    time_per_output_token_s: NonNegativeNumber = 0.0
    max_num_seqs: PositiveInt = 256
    max_model_len: PositiveInt = 32768
    answer_tokens: PositiveInt = 64
    loading_s: NonNegativeNumber = 0.0
    embedding_dimensions: PositiveInt = 256
    tensor_parallel_size: PositiveInt = 1
    pipeline_parallel_size: PositiveInt = 1
    data_parallel_size: PositiveInt = 1
