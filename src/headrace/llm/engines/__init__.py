"""Inference engines: what runs a model.

They are named here and imported only where they run, in the replicas: some need packages that take seconds to import,
and that are not installed where an application is only described.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from headrace.config.problems import wrong_choice
from headrace.exceptions import ConfigError

if TYPE_CHECKING:
    from headrace.llm.config import LLMConfig
    from headrace.llm.engines.protocol import InferenceEngine


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """
    Attributes:
        name: of the engine.
        module, attribute: where its class is.
        requires: the package that it needs; None where nothing has to be installed.
        extra: of ours, which installs that package.
        takes_gpus: it runs on GPUs where there are some.
    """

    name: str
    module: str
    attribute: str
    requires: str | None = None
    extra: str | None = None
    takes_gpus: bool = False


ENGINES = {
    entry.name: entry
    for entry in (
        EngineEntry("vllm", "headrace.llm.engines.vllm", "VLLMEngine", "vllm", "vllm", takes_gpus=True),
        EngineEntry(
            "transformers",
            "headrace.llm.engines.transformers",
            "TransformersEngine",
            "transformers",
            "transformers",
            takes_gpus=True,
        ),
        EngineEntry("llamacpp", "headrace.llm.engines.llamacpp", "LlamaCppEngine", "llama_cpp", "llamacpp"),
        EngineEntry("simulated", "headrace.llm.engines.simulated", "SimulatedEngine"),
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


def make_engine(config: LLMConfig) -> InferenceEngine:
    """The engine of a config, not started.

    Raises:
        ConfigError: what it needs is not installed; names the extra that installs it.
    """
    entry = engine_named(config.llm_engine)
    if entry.requires is not None and find_spec(entry.requires) is None:
        others = ", ".join(
            f"'{other.name}'"
            for other in ENGINES.values()
            if other is not entry and (other.requires is None or find_spec(other.requires) is not None)
        )
        raise ConfigError(
            f"llm_engine: '{entry.name}' needs the package '{entry.requires}', which is not installed here: "
            f"pip install 'headrace[{entry.extra}]'. Installed are the engines {others}"
        )
    engine: InferenceEngine = getattr(import_module(entry.module), entry.attribute)(config)
    return engine
