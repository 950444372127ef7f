from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.llm.tiny_gguf import make_tiny_gguf

from headrace.llm.config.llm_config import LLMConfig
from headrace.llm.engines.llamacpp import LlamaCppEngine

# They import what is not installed without the extra.
collect_ignore_glob = [] if find_spec("llama_cpp") and find_spec("gguf") else ["test_*.py"]


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model in a GGUF file."""
    return make_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
async def engine(tiny_gguf: Path) -> AsyncIterator[LlamaCppEngine]:
    """An engine with a batch of three and prompts read in small parts."""
    config = LLMConfig(
        model=str(tiny_gguf), model_id="tiny", llm_engine="llamacpp", max_num_seqs=3, n_batch=8, n_threads=1
    )
    engine = LlamaCppEngine(config)
    await engine.start(lambda progress: None)
    yield engine
    await engine.stop()
