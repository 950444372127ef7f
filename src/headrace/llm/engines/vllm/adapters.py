"""LoRA adapters of vLLM: loaded by hand, and on demand from where the config says that they are.

vLLM itself holds `max_num_adapters_per_replica` of them (its `max_cpu_loras`) and drops the one used longest ago; one
that is asked for again is read from its folder again.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from headrace.exceptions import ConfigError
from headrace.llm.config.model_loading import LoraConfig, is_cloud_address

logger = logging.getLogger("headrace.llm.vllm")

# Adapters are folders; a name that leads out of theirs is none.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FINISHED_CHECKED_EVERY_S = 0.05


class Adapters:
    """Adapters over one model.

    Args:
        vllm: what `imports.load` returns.
        engine: vLLM's `AsyncLLM`.
        models: vLLM's `OpenAIServingModels`, which knows the names of models.
        model_id: of the base model.
        config: None where the engine has no adapters.
    """

    def __init__(self, vllm: ModuleType, engine: Any, models: Any, model_id: str, config: LoraConfig | None) -> None:
        self._vllm = vllm
        self._engine = engine
        self._models = models
        self._model_id = model_id
        self._config = config
        self._downloads: Path | None = None
        if config is not None and config.dynamic_lora_loading_path is not None:
            models.lora_resolvers.append(self)

    def full_name(self, name: str) -> str:
        """How clients ask for an adapter."""
        return f"{self._model_id}:{name}"

    async def add(self, name: str, path: str) -> None:
        """Load an adapter, or load it again from another place.

        Raises:
            ConfigError: there is none that fits in this folder, or the engine has no adapters.
        """
        if self._engine.vllm_config.lora_config is None:
            raise ConfigError(
                f"adapter '{name}': this model was started without LoRA; set lora_config, or "
                "engine_kwargs.enable_lora to true"
            )
        if not await asyncio.to_thread(_is_adapter, Path(path)):
            raise ConfigError(f"adapter '{name}': there is no adapter_config.json in {path}")
        full = self.full_name(name)
        request = self._vllm.LoadLoRAAdapterRequest(
            lora_name=full, lora_path=path, load_inplace=full in self._models.lora_requests
        )
        answer = await self._models.load_lora_adapter(request)
        if not isinstance(answer, str):
            raise ConfigError(f"adapter '{name}' in {path}: {answer.error.message}")

    async def remove(self, name: str) -> None:
        """Forget an adapter, once what it generates is finished.

        Raises:
            ConfigError: it is not loaded.
        """
        full = self.full_name(name)
        request = self._models.lora_requests.get(full)
        if request is None:
            raise ConfigError(f"adapter '{name}' is not loaded")
        await self._models.unload_lora_adapter(self._vllm.UnloadLoRAAdapterRequest(lora_name=full))
        states = self._engine.output_processor.request_states
        # vLLM has nothing to wait on for this.
        while any(state.lora_name == full for state in states.values()):  # noqa: ASYNC110
            await asyncio.sleep(_FINISHED_CHECKED_EVERY_S)
        await self._engine.remove_lora(request.lora_int_id)

    def close(self) -> None:
        """Remove what was downloaded."""
        if self._downloads is not None:
            shutil.rmtree(self._downloads, ignore_errors=True)

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
        """Called by vLLM for a name that it does not know: a `LoRARequest`, or None where there is no such adapter."""
        model_id, _, name = lora_name.rpartition(":")
        if model_id != self._model_id or not _NAME.fullmatch(name):
            return None
        folder = await self._find(name)
        if folder is None:
            return None
        # vLLM sets the id.
        return self._vllm.LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(folder))

    async def _find(self, name: str) -> Path | None:
        config = self._config
        assert config is not None and config.dynamic_lora_loading_path is not None
        place = config.dynamic_lora_loading_path
        if not is_cloud_address(place) and "://" not in place:
            folder = Path(place, name)
            return folder if await asyncio.to_thread(_is_adapter, folder) else None
        if self._downloads is None:
            self._downloads = Path(tempfile.mkdtemp(prefix="headrace-adapters-"))
        folder = self._downloads / name
        for attempt in range(1, config.max_download_tries + 1):
            try:
                async with asyncio.timeout(config.download_timeout_s):
                    found = await asyncio.to_thread(_download, f"{place}/{name}", folder)
                return folder if found else None
            except Exception as error:
                logger.warning(
                    "fetching adapter %s/%s failed (%d of %d): %s",
                    place,
                    name,
                    attempt,
                    config.max_download_tries,
                    error or type(error).__name__,
                )
        return None


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def _download(source: str, folder: Path) -> bool:
    """Copy a folder of an object store; False where there is no adapter in it."""
    from fsspec.core import url_to_fs  # what vLLM requires requires it

    store, path = url_to_fs(source)
    if not store.exists(f"{path}/adapter_config.json"):
        return False
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for file in store.find(path):
        target = part / file[len(path) :].lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        store.get_file(file, str(target))
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return True
