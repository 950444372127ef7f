"""The engine's arguments: `engine_kwargs` of an `LLMConfig` whose `llm_engine` is `transformers`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator

from headrace.config.model import ConfigModel


class TransformersSettings(ConfigModel):
    """
    Attributes:
        max_model_len: tokens of prompt and answer together; None: as many as the model was made for.
        max_num_seqs: requests in the batch at once; others wait.
        max_num_batched_tokens: tokens of prompts that are read between two steps of those that are writing. Fewer make
            steadier streams; with more, prompts are read sooner.
        dtype: `auto` (as the weights were saved; `float32` for half precision on a CPU), `float32`, `bfloat16`,
            `float16`.
        device: `auto` (CUDA, else MPS, else the CPU), or a device as PyTorch names it.
        device_map: how layers are spread over several devices, as transformers has it (needs `accelerate`).
        quantization_config: as transformers has it, a dict with `quant_method` and more.
        attn_implementation: `sdpa` or `eager`; None for the model's own default.
        tokenizer: another one than the model's.
        revision: branch, tag or commit of a model on the hub.
        trust_remote_code: run the Python code that comes with a model.
        chat_template: in place of the tokenizer's: a template, or the path of a file that holds one.
        generation_config: `auto`: sampling defaults and ends are the model's own; `none`: OpenAI's defaults.
        seed: of requests that have none of their own; None: they differ each time.
        task: `auto` (from the model's architecture), `generate` or `embed`.
        num_threads: of PyTorch on the CPU; None: as PyTorch decides.
        model_kwargs: further arguments of `from_pretrained`.
    """

    title: ClassVar[str] = "wrong engine_kwargs of the engine 'transformers'"

    max_model_len: PositiveInt | None = None
    max_num_seqs: PositiveInt = 16
    max_num_batched_tokens: PositiveInt = 512
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    device_map: str | dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None
    attn_implementation: Literal["sdpa", "eager"] | None = None
    tokenizer: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    chat_template: str | None = None
    generation_config: Literal["auto", "none"] = "auto"
    seed: int | None = None
    task: Literal["auto", "generate", "embed"] = "auto"
    num_threads: PositiveInt | None = None
    model_kwargs: dict[str, Any] = Field(default_factory=dict)

    @field_validator("dtype", mode="before")
    @classmethod
    def _short_dtypes(cls, dtype: Any) -> Any:
        return {"half": "float16", "float": "float32", "bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(
            dtype, dtype
        )
