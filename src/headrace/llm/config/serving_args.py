"""`LLMServingArgs`: the arguments of `build_openai_app`, as code and config files give them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, field_validator

from headrace.config.model import ConfigModel, JsonObject
from headrace.config.problems import shown
from headrace.exceptions import ConfigError
from headrace.llm.api import ApiKey, read_api_keys
from headrace.llm.batch.config import BatchConfig
from headrace.llm.config.llm_config import LLMConfig


def _from_file(given: Any) -> Any:
    return LLMConfig.from_file(given) if isinstance(given, str) else given


def load_class(given: Any) -> Any:
    """A class from itself or its import path (`module:Name` or `module.Name`).

    Raises:
        ConfigError: there is none.
    """
    if not isinstance(given, str):
        return given
    module, _, name = given.replace(":", ".").rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{shown(given)} cannot be imported: {error}") from error


def _api_keys(given: Any) -> tuple[ApiKey, ...]:
    try:
        return read_api_keys(given)
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("api_keys").removeprefix(": ")) from None


class IngressClsConfig(ConfigModel):
    """The class of the front.

    Attributes:
        ingress_cls: derived from `LLMIngress`, or its import path; None for `LLMIngress`.
        ingress_extra_kwargs: more arguments of its constructor.
    """

    title: ClassVar[str] = "wrong ingress_cls_config"

    ingress_cls: Any = None
    ingress_extra_kwargs: dict[str, Any] = Field(default_factory=dict)


class LLMServingArgs(ConfigModel):
    """Arguments of `build_openai_app`.

    Attributes:
        llm_configs: one per model: `LLMConfig`s, dicts with their fields, or paths of YAML files.
        ingress_cls_config: the class of the front.
        ingress_deployment_config: options of its deployment.
        api_keys: who may ask, and how much: see `headrace.llm.api.read_api_keys`. None of them: everybody may.
        batch_config: how `/v1/files` and `/v1/batches` work (`headrace.llm.BatchConfig`); None for not at all.
    """

    title: ClassVar[str] = "wrong LLMServingArgs"

    llm_configs: list[Annotated[LLMConfig, BeforeValidator(_from_file)]]
    ingress_cls_config: IngressClsConfig = Field(default_factory=IngressClsConfig)
    ingress_deployment_config: JsonObject = Field(default_factory=dict)
    api_keys: Annotated[tuple[ApiKey, ...], BeforeValidator(_api_keys)] = ()
    batch_config: BatchConfig | None = Field(default_factory=BatchConfig)

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            llm_configs: Sequence[LLMConfig | Mapping[str, Any] | str],
            ingress_cls_config: IngressClsConfig | Mapping[str, Any] = ...,
            ingress_deployment_config: Mapping[str, Any] = ...,
            api_keys: Sequence[ApiKey | Mapping[str, Any] | str] = ...,
            batch_config: BatchConfig | Mapping[str, Any] | None = ...,
        ) -> None: ...

    @field_validator("llm_configs")
    @classmethod
    def _models_with_ids_of_their_own(cls, configs: list[LLMConfig]) -> list[LLMConfig]:
        if not configs:
            raise ValueError("must have at least one model")
        ids = [config.model_id for config in configs]
        twice = next((model_id for model_id in ids if ids.count(model_id) > 1), None)
        if twice is not None:
            raise ValueError(f"two models have the id {shown(twice)}; each needs one of its own")
        return configs
