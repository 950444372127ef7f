"""vLLM on this machine's CPUs, serving random models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.llm.tiny_llama import make_lora_adapter, make_tiny_llama

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    # GiB; it would take nearly half of the machine's memory.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # Each engine would bind its threads to the same cores as the others', and they wait for each other busily.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    # Some of vLLM's functions are compiled when they are first used, eager or not.
    "TORCHDYNAMO_DISABLE": "1",
}
ENGINE_KWARGS: dict[str, Any] = {"enforce_eager": True, "max_model_len": 512, "max_num_seqs": 16}
"""Small, and without minutes of compiling."""


@pytest.fixture(scope="package", autouse=True)
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama."""
    return make_tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A folder with the adapters `one` and `two`."""
    folder = tmp_path_factory.mktemp("adapters")
    make_lora_adapter(folder / "one", model, seed=1)
    make_lora_adapter(folder / "two", model, seed=2)
    return folder
