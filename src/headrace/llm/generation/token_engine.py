"""What an engine must do to be served with `GenerationEngine`: turn tokens into tokens.

The layer above it speaks the APIs of OpenAI and Anthropic, renders chats, finds stop strings and tool calls, and turns
tokens into text. Below this seam there is no JSON and no text, apart from the tokenizer's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

from headrace.llm.engines.protocol import EngineLoad, LoadingProgress

ConstraintKind = Literal["json_schema", "regex", "lark"]
FinishReason = Literal["stop", "length"]


class OutputConstraint(msgspec.Struct, frozen=True):
    """What the generated text has to match.

    Attributes:
        kind: "json_schema", "regex" or "lark" (a grammar in Lark's notation).
        source: the schema (as JSON), the expression or the grammar.
    """

    kind: ConstraintKind
    source: str


class SamplingParameters(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens of one answer are chosen. Values are checked before an engine sees them.

    Attributes:
        max_tokens: at most so many; prompt and answer together fit into the model's context.
        temperature: 0 takes the likeliest token, whatever the next five say.
        top_p: keep the likeliest tokens whose probabilities reach this sum; 1 keeps all.
        top_k: keep so many of the likeliest tokens; 0 keeps all.
        min_p: keep tokens at least this share as likely as the likeliest; 0 keeps all.
        repetition_penalty: divides (positive) or multiplies (negative) logits of tokens of the prompt and the answer.
        presence_penalty: subtracted from logits of tokens that the answer has already.
        frequency_penalty: the same, times how often it has them.
        seed: the same seed, prompt and parameters give the same answer, whatever else runs; None: a fresh one.
        stop_token_ids: end the answer, besides the model's own ends.
        ignore_eos: the model's own ends do not end the answer.
        min_tokens: no end before so many tokens.
        logprobs: None: no log probabilities; k: those of each token and of the k likeliest.
        prompt_logprobs: the same for the tokens of the prompt, in the first step.
        logit_bias: added to the logits of these tokens.
        allowed_token_ids: choose from these alone; None: from all.
        constraint: what the text has to match.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: frozenset[int] | None = None
    constraint: OutputConstraint | None = None


class TokenLogprobs(msgspec.Struct, frozen=True, gc=False):
    """How likely a token was, and the likeliest in its place.

    Attributes:
        token_id: the token that was chosen, or that stands in the prompt.
        logprob: its natural logarithm of probability, of the model's own distribution (temperature 1, no penalties).
        top: (token id, log probability) of the likeliest, likeliest first; as many as were asked for.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Step(msgspec.Struct):
    """What was generated since the step before: one token or more.

    Attributes:
        token_ids: in order. A token that ended the answer (the model's own end, or one of `stop_token_ids`) is the
            last of them.
        finish_reason: set on the last step: "stop" (by a token) or "length" (`max_tokens`).
        ended_by_token: the last of `token_ids` ended the answer and is no part of its text.
        logprobs: one for each of `token_ids`, where asked for.
        prompt_logprobs: in the first step, where asked for; one for each token of the prompt but the first.
        cached_tokens: in the first step: tokens of the prompt that the KV cache had already.
    """

    token_ids: list[int]
    finish_reason: FinishReason | None = None
    ended_by_token: bool = False
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
    cached_tokens: int = 0


class Detokenizer(Protocol):
    """Turns the tokens of one answer into text as they come."""

    def push(self, token_ids: Sequence[int]) -> list[str]:
        """The text that each token completes; "" for one that completes no character, or a special one."""

    def flush(self) -> str:
        """The text of what never became a whole character."""


class ChatTemplateError(ValueError):
    """The model has no chat template, or it refuses these messages. Its text is for the client."""


class Tokenizer(Protocol):
    """Text to token ids and back."""

    vocabulary_size: int

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text. A long one takes a while: this is called on a thread."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ids."""

    def token(self, token_id: int) -> tuple[str, bytes]:
        """What one token stands for: text, with a replacement character for what is no text alone, and bytes."""

    def detokenizer(self, prompt: Sequence[int], *, skip_special_tokens: bool = True) -> Detokenizer:
        """For an answer to this prompt."""

    def render_chat(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt of a chat.

        Raises:
            ChatTemplateError: there is no template, or it refuses these messages.
        """


@dataclass(frozen=True, slots=True)
class TokenModel:
    """What a token engine has loaded.

    Attributes:
        model_id: as clients name it.
        engine: the engine's name, as `ModelInfo` tells it.
        tokenizer: the model's.
        max_model_len: tokens of prompt and answer together.
        weights_bytes: memory that the weights take; None where unknown.
        generates: it generates text; False for a model that only embeds.
        embeds: it has `embed`.
        constraints: kinds of `OutputConstraint` that it can keep to.
        chats: its tokenizer has a chat template.
        default_sampling: what the model's makers recommend: "temperature", "top_p", "top_k", "min_p",
            "repetition_penalty"; for requests that do not say.
        max_sequences: answers that are generated at a time; None where the engine does not say.
    """

    model_id: str
    engine: str
    tokenizer: Tokenizer
    max_model_len: int
    weights_bytes: int | None = None
    generates: bool = True
    embeds: bool = False
    constraints: frozenset[ConstraintKind] = frozenset()
    chats: bool = True
    default_sampling: Mapping[str, float] | None = None
    max_sequences: int | None = None


class TokenEngine(Protocol):
    """Runs one model on token ids. Every method runs on the replica's event loop, and none blocks it."""

    async def start(self, report: Callable[[LoadingProgress], None]) -> TokenModel:
        """Load the model and warm it up; returns when it can generate.

        Raises:
            ConfigError: the model or an argument is wrong; names it.
        """

    def generate(
        self, prompt: Sequence[int], sampling: SamplingParameters, *, adapter: str | None = None, priority: int = 0
    ) -> AsyncGenerator[Step, None]:
        """The steps of one answer. Closing the generator ends it and frees its place in the batch.

        Args:
            prompt: at least one token, fewer than `max_model_len`.
            sampling: how tokens are chosen.
            adapter: one that `add_adapter` has loaded; None: the base model.
            priority: lower is served first, where the engine has priorities.

        Raises:
            GenerationFailedError: the engine gave up, or was stopped.
        """

    async def check_constraint(self, constraint: OutputConstraint) -> None:
        """Called before `generate` with a constraint, so that what is wrong with it is told at once.

        Raises:
            ConstraintError: it cannot be kept to; says why.
        """

    async def embed(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """One vector for each prompt, of length 1. Called only where `TokenModel.embeds`."""

    async def check_health(self) -> None:
        """Raises if the model cannot generate any more."""

    def load(self) -> EngineLoad:
        """What it is busy with now; cheap."""

    async def add_adapter(self, name: str, path: str) -> None:
        """As `InferenceEngine.add_adapter`."""

    async def remove_adapter(self, name: str) -> None:
        """As `InferenceEngine.remove_adapter`."""

    async def sleep(self, level: int) -> None:
        """As `InferenceEngine.sleep`."""

    async def wake(self) -> None:
        """As `InferenceEngine.wake`."""

    async def stop(self) -> None:
        """Ends generation and frees the model."""


class ConstraintError(ValueError):
    """An `OutputConstraint` that cannot be kept to: a schema or grammar that is wrong, or that needs too much."""


class GenerationFailedError(RuntimeError):
    """The engine could not go on with an answer. Its text is for the client."""
