"""Requests and configs for engines of which one computes the prompt and another generates."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.exceptions import ConfigError
from headrace.llm import LLMConfig, PDServingArgs
from headrace.llm.kv_transfer import decode_fields, prefill_fields, replica_config, transfer_config, uses_nixl

CHAT = "/v1/chat/completions"
NIXL = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}


def config(transfer: Any = NIXL, model: str = "tiny", **fields: Any) -> LLMConfig:
    return LLMConfig(model=model, engine_kwargs={"kv_transfer_config": transfer} if transfer else {}, **fields)


def test_prefill_makes_one_token_of_the_same_prompt_for_another_engine() -> None:
    request = {"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0, "cache_salt": "s"}
    of_the_answer = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 9,
        "min_tokens": 4,
    }

    sent = prefill_fields(
        CHAT, {**request, **of_the_answer, "response_format": {"type": "json_object"}, "logprobs": True}
    )

    assert sent is not None
    params = sent.pop("kv_transfer_params")
    assert sent == {**request, "max_tokens": 1}
    assert (params["do_remote_decode"], params["do_remote_prefill"]) == (True, False)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "turn"}}])
def test_a_call_that_must_be_made_is_left_to_decode_and_the_prompt_stays_as_it_is(choice: Any) -> None:
    request = {"messages": [], "tools": [{"type": "function"}], "tool_choice": choice}
    sent = prefill_fields(CHAT, request)
    assert sent is not None and (sent["tools"], sent["tool_choice"]) == (request["tools"], "none")
    assert prefill_fields(CHAT, request, hides_tools=True) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ["a", "b"]},
        {"prompt": [[1, 2], [3]]},
        {"prompt": "a", "n": 2},
        {"prompt": "a", "echo": True},
        {"prompt": "a", "prompt_logprobs": 0},
        {"prompt": "a", "use_beam_search": True},
    ],
)
def test_what_needs_the_prompt_itself_or_it_several_times_stays_with_one_engine(fields: dict[str, Any]) -> None:
    assert prefill_fields("/v1/completions", fields) is None


def test_other_paths_stay_with_one_engine() -> None:
    assert prefill_fields("/tokenize", {"prompt": "a"}) is None


def test_tokens_are_one_prompt() -> None:
    assert prefill_fields("/v1/completions", {"prompt": [1, 2, 3], "n": 1, "echo": False}) is not None


@given(st.dictionaries(st.sampled_from(["stream", "n", "max_tokens", "tools", "stop"]), st.none() | st.integers(0, 1)))
def test_the_clients_request_is_never_changed(fields: dict[str, Any]) -> None:
    before = dict(fields)
    prefill_fields(CHAT, fields)
    decode_fields(fields, {"kv_transfer_params": {"a": 1}})
    assert fields == before


def test_decode_is_told_what_prefill_said() -> None:
    params = {"remote_host": "h", "remote_block_ids": [[1, 2]]}
    assert decode_fields({"prompt": "a"}, {"kv_transfer_params": params}) == {
        "prompt": "a",
        "kv_transfer_params": params,
    }
    assert decode_fields({"prompt": "a"}, {"kv_transfer_params": None}) == {"prompt": "a"}


def test_replicas_have_ids_of_their_own_and_compute_what_they_cannot_fetch() -> None:
    named = config({**NIXL, "engine_id": "p"})
    one, other = (transfer_config(replica_config(named)) for _ in range(2))
    assert one["engine_id"].startswith("p-") and one["engine_id"] != other["engine_id"]
    assert one["kv_load_failure_policy"] == "recompute"
    assert transfer_config(named) == {**NIXL, "engine_id": "p"}
    chosen = config({**NIXL, "kv_load_failure_policy": "fail"})
    assert transfer_config(replica_config(chosen))["kv_load_failure_policy"] == "fail"


def test_nixl_is_found_among_several_connectors() -> None:
    several = {"kv_connector": "MultiConnector", "kv_connector_extra_config": {"connectors": [NIXL]}}
    assert uses_nixl(several) and uses_nixl(NIXL)
    assert not uses_nixl({"kv_connector": "LMCacheConnectorV1"})


def test_the_transfer_may_be_json() -> None:
    assert transfer_config(config('{"kv_connector": "NixlConnector"}')) == {"kv_connector": "NixlConnector"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"decode_config": config(model="other")}, "one model_id, not 'tiny' and 'other'"),
        ({"prefill_config": config(None)}, "prefill_config.*kv_transfer_config: is required"),
        ({"decode_config": config("{")}, "decode_config.*is no JSON"),
        ({"decode_config": config({"kv_connector": "MoRIIOConnector"})}, "MoRIIOConnector.*use NixlConnector"),
        ({"decode_config": config(lora_config={"dynamic_lora_loading_path": "x"})}, "adapters in the same place"),
        ({"decode_config": 5}, "must be an LLMConfig"),
        ({"decode_confg": config()}, "decode_config"),
    ],
)
def test_what_does_not_fit_together_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PDServingArgs(**{"prefill_config": config(), "decode_config": config(), **changed})
