from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.llm.tiny_llama import make_tiny_llama

from headrace.llm.config.llm_config import LLMConfig
from headrace.llm.engines.transformers import TransformersEngine

# They import what is not installed without the extra.
collect_ignore_glob = [] if find_spec("torch") and find_spec("transformers") else ["test_*.py"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama."""
    return make_tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


async def started(folder: Path, **engine_kwargs: Any) -> TransformersEngine:
    """An engine that has loaded the folder."""
    config = LLMConfig(model=str(folder), model_id="tiny", llm_engine="transformers", **engine_kwargs)
    engine = TransformersEngine(config)
    await engine.start(lambda progress: None)
    return engine


@pytest.fixture
async def engine(tiny: Path) -> AsyncIterator[TransformersEngine]:
    """An engine with a batch of four and prompts read in small parts."""
    engine = await started(tiny, max_num_seqs=4, max_num_batched_tokens=7, dtype="float32")
    yield engine
    await engine.stop()
