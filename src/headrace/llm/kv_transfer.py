"""What requests and configs need so that one engine computes a prompt and another goes on from its KV cache. Pure.

A KV connector of vLLM's moves the cache. It is steered by `kv_transfer_params`: the engine that computes the prompt is
told that another one will go on, its answer says where the cache is, and that goes into the other's request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from headrace.config.problems import shown
from headrace.exceptions import ConfigError
from headrace.llm.config.llm_config import LLMConfig

PARAMS = "kv_transfer_params"

PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})
"""Paths whose prompts may be computed elsewhere."""

_FOR_ANOTHER: dict[str, Any] = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
# Of the answer, of which only the first token is made. What constrains it costs time and may not be met by one token.
_OF_THE_ANSWER = frozenset(
    {
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "min_tokens",
        "logprobs",
        "top_logprobs",
        "response_format",
        "structured_outputs",
    }
)
_NEEDS_A_PEER = frozenset({"MoRIIOConnector"})


def prefill_fields(path: str, fields: Mapping[str, Any], hides_tools: bool = False) -> dict[str, Any] | None:
    """The request that has an engine compute a prompt for another one; None where one engine had better do both.

    That is so for several prompts or several answers, of which each would fetch the cache, and where something of the
    prompt itself is asked for.

    Args:
        path: of the API.
        fields: the client's request.
        hides_tools: the template does not see tools that may not be used (vLLM's
            `exclude_tools_when_tool_choice_none`).
    """
    if path not in PATHS or fields.get("prompt_logprobs") is not None:
        return None
    if any(fields.get(name) not in (None, 1) for name in ("n", "best_of")):
        return None
    if fields.get("use_beam_search") or fields.get("echo"):
        return None
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and not all(isinstance(token, int) for token in prompt):
        return None
    sent = {name: value for name, value in fields.items() if name not in _OF_THE_ANSWER}
    if fields.get("tool_choice") not in (None, "none", "auto"):
        if hides_tools:
            return None
        sent["tool_choice"] = "none"  # a call cannot be made of one token; the prompt stays as it is
    sent["max_tokens"] = 1
    sent[PARAMS] = dict(_FOR_ANOTHER)
    return sent


def decode_fields(fields: Mapping[str, Any], answer: Any) -> dict[str, Any]:
    """The client's request, going on from where a prompt was computed.

    Args:
        fields: the client's request.
        answer: to the request of `prefill_fields`. Without parameters in it, the connector finds the cache by itself.
    """
    sent = dict(fields)
    params = answer.get(PARAMS) if isinstance(answer, dict) else None
    if params is not None:
        sent[PARAMS] = params
    return sent


def transfer_config(config: LLMConfig) -> dict[str, Any]:
    """The `kv_transfer_config` of a config's engine.

    Raises:
        ConfigError: there is none, or it cannot be used between two deployments.
    """
    given = config.engine_kwargs.get("kv_transfer_config")
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise ConfigError(f"engine_kwargs.kv_transfer_config: is no JSON: {error}") from None
    if not isinstance(given, Mapping) or not given.get("kv_connector"):
        raise ConfigError(
            "engine_kwargs.kv_transfer_config: is required to hand a prompt's KV cache on, such as "
            '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}'
            + ("" if given is None else f", not {shown(given)}")
        )
    if given["kv_connector"] in _NEEDS_A_PEER:
        raise ConfigError(
            f"engine_kwargs.kv_transfer_config.kv_connector: {given['kv_connector']} binds requests to replicas before "
            "they are sent, which is not supported; use NixlConnector, or LMCacheConnectorV1"
        )
    return dict(given)


def replica_config(config: LLMConfig) -> LLMConfig:
    """A config for one replica of several: with an engine id of its own, and with prompts computed here where a cache
    cannot be fetched, unless the config says otherwise.

    Raises:
        ConfigError: see `transfer_config`.
    """
    transfer = {"kv_load_failure_policy": "recompute", **transfer_config(config)}
    if transfer.get("engine_id"):
        transfer["engine_id"] = f"{transfer['engine_id']}-{uuid4().hex[:8]}"
    return config.model_copy(update={"engine_kwargs": {**config.engine_kwargs, "kv_transfer_config": transfer}})


def uses_nixl(transfer: Mapping[str, Any]) -> bool:
    """Whether a connector, or one of those that it combines, is one of NIXL's."""
    if str(transfer.get("kv_connector", "")).startswith("Nixl"):
        return True
    several = (transfer.get("kv_connector_extra_config") or {}).get("connectors") or []
    return any(uses_nixl(one) for one in several if isinstance(one, Mapping))
