"""LoRA adapters of a model: which there are, and which of them a replica holds."""

from __future__ import annotations

from pathlib import Path

import msgspec

import headrace as serve
from headrace.llm.config.llm_config import LLMConfig
from headrace.llm.config.model_loading import is_cloud_address

ADAPTER_FILE = "adapter_config.json"
"""What makes a folder an adapter, as PEFT saves them."""


def known_adapters(config: LLMConfig) -> list[str] | None:
    """Names of the adapters that clients may ask for as `<model id>:<name>`, as far as they can be listed: those in a
    local folder. None where the model takes no adapters."""
    if config.lora_config is None:
        return None
    place = config.lora_config.dynamic_lora_loading_path
    if place is None or is_cloud_address(place):
        return []
    return sorted(path.parent.name for path in Path(place).glob(f"*/{ADAPTER_FILE}"))


class _Model(msgspec.Struct):
    model: str = ""


class HeldAdapters:
    """Tells routers which adapters this replica has used last, so that requests for one go where it is loaded. The
    engine loads and drops them by itself, in the same order.

    Args:
        model_id: of the base model.
        most: how many adapters a replica holds.
    """

    def __init__(self, model_id: str, most: int) -> None:
        self._prefix = f"{model_id}:"
        self._note = serve.multiplexed(max_num_models_per_replica=most)(_itself)

    def asked_for(self, body: bytes) -> str:
        """The id of the adapter that a request names; "" for none."""
        try:
            model = msgspec.json.decode(body, type=_Model).model
        except msgspec.MsgspecError:
            return ""  # the engine will say what is wrong
        return model if model.startswith(self._prefix) else ""

    async def note(self, adapter_id: str) -> None:
        """It has been used now."""
        await self._note(adapter_id)


async def _itself(adapter_id: str) -> str:
    return adapter_id
