"""`LLMConfig`: a model, the engine that runs it, and the deployment around them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, ClassVar, Self

import yaml
from pydantic import Field, field_validator, model_validator

from headrace.config.autoscaling import AutoscalingConfig
from headrace.config.deployment_options import DeploymentOptions
from headrace.config.model import ConfigModel, Flag
from headrace.config.problems import mistake, shown
from headrace.exceptions import ConfigError
from headrace.llm.config.accelerators import AcceleratorConfig, AcceleratorType, kind_of_type
from headrace.llm.config.callback import CallbackConfig
from headrace.llm.config.model_loading import CloudMirrorConfig, LoraConfig, ModelLoadingConfig
from headrace.llm.config.placement import PlacementGroupConfig
from headrace.llm.engines import engine_named

_MODEL_NAMES = ("model", "model_id", "served_model_name")
_EXPERIMENTS = ("num_ingress_replicas", "stream_batching_interval_ms")
_SURELY_MEANT = 0.85


class LLMConfig(ConfigModel):
    """A model, the engine that runs it, and the deployment around them, in either of two forms:

    ```python
    LLMConfig(model="Qwen/Qwen2.5-0.5B-Instruct", tensor_parallel_size=2, max_model_len=8192)
    LLMConfig(
        model_loading_config={"model_id": "qwen", "model_source": "Qwen/Qwen2.5-0.5B-Instruct"},
        engine_kwargs={"tensor_parallel_size": 2, "max_model_len": 8192},
    )
    ```

    In the first form `model` is what to load, `model_id` (or `served_model_name`) the name that clients ask for where
    it is another one, and every argument that is no field is one of the engine's. The second form is Ray Serve LLM's.

    Attributes:
        model_loading_config: which model.
        llm_engine: `vllm`, `transformers`, `llamacpp` or `simulated`.
        engine_kwargs: arguments of the engine, by the names that it gives them itself.
        accelerator_type: such as `H100`; implies GPUs (or TPUs).
        accelerator_config: `{"kind": "cpu"}`, where nothing else tells what to run on.
        placement_group_config: resources of the workers of one replica; see `PlacementGroupConfig`.
        lora_config: adapters over the model; None for none.
        deployment_config: options of the deployment, as `@serve.deployment` takes them: `num_replicas`,
            `autoscaling_config`, …
        runtime_env: environment of the replicas.
        server_cls: the class that serves it, or its import path; None for `LLMServer`.
        experimental_configs: `num_ingress_replicas`: replicas of the front in `build_openai_app`.
            `stream_batching_interval_ms` is taken and not needed: tokens are never held back to be sent together.
        log_engine_metrics: the engine measures itself.
        callback_config: code to run around the start of the engine.
        max_waiting_requests: requests that may wait in a replica behind those that its engine generates; more are
            refused at once with status 503, except those of batches. None for four times as many as it generates at a
            time, and at least 256; -1 for any number.
        warmup: a replica answers a short request of each kind before it counts as started.
        sleep_endpoints: `POST /sleep`, `POST /wake_up` and `GET /is_sleeping` are there, as in vLLM's development
            mode. Whoever may ask the model may use them.
    """

    title: ClassVar[str] = "wrong LLMConfig"

    model_loading_config: ModelLoadingConfig
    llm_engine: str = "vllm"
    engine_kwargs: dict[str, Any] = Field(default_factory=dict)
    accelerator_type: AcceleratorType | None = None
    accelerator_config: AcceleratorConfig | None = None
    placement_group_config: PlacementGroupConfig | None = None
    lora_config: LoraConfig | None = None
    deployment_config: dict[str, Any] = Field(default_factory=dict)
    runtime_env: dict[str, Any] | None = None
    server_cls: Any = None
    experimental_configs: dict[str, Any] = Field(default_factory=dict)
    log_engine_metrics: Flag = True
    callback_config: CallbackConfig = Field(default_factory=CallbackConfig)
    max_waiting_requests: Annotated[int, Field(strict=True, ge=-1)] | None = None
    warmup: Flag = True
    sleep_endpoints: Flag = False

    if TYPE_CHECKING:
        # Both forms, for type checkers, which know only of the fields.
        def __init__(
            self,
            *,
            model: str | Path = ...,
            model_id: str = ...,
            model_loading_config: ModelLoadingConfig | Mapping[str, Any] = ...,
            llm_engine: str = ...,
            engine_kwargs: Mapping[str, Any] = ...,
            accelerator_type: str | None = ...,
            accelerator_config: AcceleratorConfig | Mapping[str, Any] | None = ...,
            placement_group_config: PlacementGroupConfig | Mapping[str, Any] | None = ...,
            lora_config: LoraConfig | Mapping[str, Any] | None = ...,
            deployment_config: Mapping[str, Any] = ...,
            runtime_env: Mapping[str, Any] | None = ...,
            server_cls: type[Any] | str | None = ...,
            experimental_configs: Mapping[str, Any] = ...,
            log_engine_metrics: bool = ...,
            callback_config: CallbackConfig | Mapping[str, Any] = ...,
            max_waiting_requests: int | None = ...,
            warmup: bool = ...,
            sleep_endpoints: bool = ...,
            **engine_arguments: Any,
        ) -> None: ...

    # Readers.

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a YAML file.

        Raises:
            ConfigError: it cannot be read, or something in it is wrong.
        """
        try:
            with open(path, encoding="utf-8") as file:
                return cls.parse_yaml(file)
        except OSError as error:
            raise ConfigError(f"LLMConfig: cannot read {str(path)!r}: {error.strerror}") from error
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def parse_yaml(cls, file: IO[str] | str) -> Self:
        """Read YAML.

        Raises:
            ConfigError: it is no YAML, or something in it is wrong.
        """
        try:
            given = yaml.safe_load(file)
        except yaml.YAMLError as error:
            raise ConfigError(f"LLMConfig: this is no YAML: {error}") from None
        if not isinstance(given, Mapping):
            raise ConfigError(f"LLMConfig: expected a mapping of names to values, not {shown(given)}")
        return cls(**{str(name): value for name, value in given.items()})

    # What others ask for.

    @property
    def model_id(self) -> str:
        """The name by which clients ask for the model."""
        return self.model_loading_config.model_id

    @property
    def model_source(self) -> str:
        """What to load: a Hugging Face id, a local path or the address of a bucket."""
        source = self.model_loading_config.model_source
        if isinstance(source, CloudMirrorConfig):
            source = source.bucket_uri
        return source or self.model_id

    @property
    def max_request_context_length(self) -> int | None:
        """Tokens of prompt and answer together, where the config says it; None where the model does."""
        length = self.engine_kwargs.get("max_model_len")
        return None if length is None else int(length)

    def updated(self, **engine_kwargs: Any) -> Self:
        """A copy with these engine arguments on top."""
        return self.model_copy(update={"engine_kwargs": {**self.engine_kwargs, **engine_kwargs}})

    # Validation.

    @classmethod
    def _title(cls, given: Mapping[str, Any]) -> str:
        loading = given.get("model_loading_config")
        named = loading.get("model_id") if isinstance(loading, Mapping) else given.get("model")
        return f"LLMConfig of {named!r}" if isinstance(named, str) else "LLMConfig"

    @model_validator(mode="before")
    @classmethod
    def _both_forms(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        fields = {name: value for name, value in data.items() if name in cls.model_fields}
        rest = {name: value for name, value in data.items() if name not in fields}
        names = {name: rest.pop(name) for name in _MODEL_NAMES if name in rest}
        if names:
            fields["model_loading_config"] = _loading(names, fields.get("model_loading_config"))
        elif "model_loading_config" not in fields and not any(_is_typo(name, cls) for name in rest):
            raise mistake("is required: what to load, such as model='Qwen/Qwen2.5-0.5B-Instruct'", "model")
        engine_kwargs = {}
        for name, value in rest.items():
            if name in DeploymentOptions.model_fields:
                raise mistake(f"is an option of the deployment: deployment_config={{'{name}': {value!r}}}", name)
            if name in AutoscalingConfig.model_fields:
                raise mistake(
                    f"belongs in deployment_config={{'autoscaling_config': {{'{name}': {value!r}}}}}",
                    name,
                )
            if _is_typo(name, cls):
                fields[name] = value  # to be refused with its nearest name
            else:
                engine_kwargs[name] = value
        if engine_kwargs:
            given = fields.get("engine_kwargs") or {}
            twice = sorted(set(given) & set(engine_kwargs))
            if twice:
                raise mistake("is given here and in engine_kwargs; remove one of them", twice[0])
            fields["engine_kwargs"] = {**given, **engine_kwargs}
        return fields

    @field_validator("llm_engine")
    @classmethod
    def _engine_that_exists(cls, name: str) -> str:
        try:
            return engine_named(name).name
        except ConfigError as error:
            raise ValueError(str(error).partition(": ")[2]) from None

    @field_validator("engine_kwargs")
    @classmethod
    def _model_is_named_elsewhere(cls, engine_kwargs: dict[str, Any]) -> dict[str, Any]:
        for name in ("model", "served_model_name"):
            if name in engine_kwargs:
                place = "model_source" if name == "model" else "model_id"
                raise mistake(f"does not belong here; set model_loading_config.{place}", name)
        for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
            size = engine_kwargs.get(name, 1)
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise mistake(f"must be a whole number of at least 1, not {shown(size)}", name)
        return engine_kwargs

    @field_validator("deployment_config")
    @classmethod
    def _options_of_a_deployment(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name in ("placement_group_bundles", "placement_group_strategy"):
            if name in options:
                raise mistake("follows from the parallel sizes; to set it yourself, use placement_group_config", name)
        DeploymentOptions(**options)
        return options

    @field_validator("experimental_configs")
    @classmethod
    def _known_experiments(cls, experiments: dict[str, Any]) -> dict[str, Any]:
        for name, value in experiments.items():
            if name == "num_router_replicas":
                raise mistake("no such option any more; it is now called 'num_ingress_replicas'", name)
            meant = difflib.get_close_matches(name, _EXPERIMENTS, n=1, cutoff=_SURELY_MEANT)
            if name not in _EXPERIMENTS and meant:
                raise mistake(f"no such option; did you mean '{meant[0]}'?", name)
            if name == "num_ingress_replicas" and (not isinstance(value, int) or value < 1):
                raise mistake(f"must be a whole number of at least 1, not {shown(value)}", name)
        return experiments

    @model_validator(mode="after")
    def _metrics_need_stats(self) -> Self:
        if self.log_engine_metrics and self.engine_kwargs.get("disable_log_stats"):
            raise mistake(
                "excludes log_engine_metrics, which needs the engine's statistics; set log_engine_metrics to false",
                "engine_kwargs",
                "disable_log_stats",
            )
        return self

    @model_validator(mode="after")
    def _hardware_agrees(self) -> Self:
        config, kind = self.accelerator_config, self.accelerator_type and kind_of_type(self.accelerator_type)
        if config is not None and kind is not None and config.kind != kind:
            raise mistake(
                f"is '{config.kind}', but accelerator_type '{self.accelerator_type}' is a {str(kind).upper()}; "
                "remove one of them",
                "accelerator_config",
                "kind",
            )
        return self


def _loading(names: Mapping[str, Any], nested: Any) -> dict[str, Any]:
    """`model_loading_config` from the flat form's names."""
    if nested is not None:
        raise mistake("is given beside model_loading_config; remove one of them", next(iter(names)))
    if "model" not in names:
        raise mistake("is required: what to load, such as model='Qwen/Qwen2.5-0.5B-Instruct'", "model")
    source = str(names["model"]) if isinstance(names["model"], Path) else names["model"]
    served_as = names.get("model_id", names.get("served_model_name"))
    if isinstance(served_as, list | tuple):
        if len(served_as) != 1:
            raise mistake(f"a model has one name here, not {shown(served_as)}", "served_model_name")
        served_as = served_as[0]
    return {"model_id": source if served_as is None else served_as, "model_source": source}


def _is_typo(name: str, model: type[LLMConfig]) -> bool:
    """Whether an unknown name is rather one of ours, misspelt, than one of the engine's."""
    return bool(difflib.get_close_matches(name.lower(), list(model.model_fields), n=1, cutoff=_SURELY_MEANT))
