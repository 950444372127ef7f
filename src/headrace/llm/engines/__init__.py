"""Inference engines: what runs a model.

They are named here and imported only where they run, in the replicas: some need packages that take seconds to import,
and that are not installed where an application is only described.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from headrace.config.problems import wrong_choice
from headrace.exceptions import ConfigError

if TYPE_CHECKING:
    from headrace.llm.config.llm_config import LLMConfig
    from headrace.llm.engines.protocol import InferenceEngine


GpuUse = Literal["never", "where asked for", "where there are some"]


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """
    Attributes:
        name: of the engine.
        module, attribute: where its class is.
        requires: the package that it needs; None where nothing has to be installed.
        extra: of ours, which installs that package.
        gpu_use: whether it runs on GPUs: never, where the config asks for it, or wherever there are some.
        has_adapters: it can serve LoRA adapters over the model.
        spreads_workers: the workers of one replica may be on several machines, each with a bundle of its own.
    """

    name: str
    module: str
    attribute: str
    requires: str | None = None
    extra: str | None = None
    gpu_use: GpuUse = "never"
    has_adapters: bool = False
    spreads_workers: bool = False


ENGINES = {
    entry.name: entry
    for entry in (
        EngineEntry(
            "vllm",
            "headrace.llm.engines.vllm",
            "VLLMEngine",
            "vllm",
            "vllm",
            gpu_use="where there are some",
            has_adapters=True,
            spreads_workers=True,
        ),
        EngineEntry(
            "transformers",
            "headrace.llm.engines.transformers",
            "TransformersEngine",
            "transformers",
            "transformers",
            gpu_use="where there are some",
        ),
        EngineEntry(
            "llamacpp",
            "headrace.llm.engines.llamacpp",
            "LlamaCppEngine",
            "llama_cpp",
            "llamacpp",
            gpu_use="where asked for",
        ),
        EngineEntry("simulated", "headrace.llm.engines.simulated", "SimulatedEngine", has_adapters=True),
    )
}
"""By name, as `llm_engine` gives it."""

_OTHER_SPELLINGS = {"vllm": "vllm", "llama.cpp": "llamacpp", "llama_cpp": "llamacpp", "llama-cpp": "llamacpp"}


def engine_named(name: str) -> EngineEntry:
    """The engine that `llm_engine` means; upper and lower case are the same.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    lower = name.lower()
    entry = ENGINES.get(_OTHER_SPELLINGS.get(lower, lower))
    if entry is None:
        raise ConfigError(f"llm_engine: {wrong_choice(name, sorted(ENGINES))}")
    return entry


def check_installed(entry: EngineEntry) -> None:
    """Does nothing if what an engine needs is installed here.

    Raises:
        ConfigError: it is not; names the extra that installs it, and the engines that would run.
    """
    if _is_installed(entry):
        return
    others = ", ".join(other.name for other in ENGINES.values() if _is_installed(other))
    raise ConfigError(
        f"llm_engine: '{entry.name}' needs the package '{entry.requires}', which is not installed here: "
        f"pip install 'headrace[{entry.extra}]'. Installed are the engines: {others}"
    )


def _is_installed(entry: EngineEntry) -> bool:
    return entry.requires is None or find_spec(entry.requires) is not None


def make_engine(config: LLMConfig) -> InferenceEngine:
    """The engine of a config, not started.

    Raises:
        ConfigError: what it needs is not installed, or an argument of its is wrong.
    """
    entry = engine_named(config.llm_engine)
    check_installed(entry)
    engine: InferenceEngine = getattr(import_module(entry.module), entry.attribute)(config)
    return engine
