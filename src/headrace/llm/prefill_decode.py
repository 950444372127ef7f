"""Prefill and decode in deployments of their own: one computes prompts, the other generates.

Long prompts then do not hold up the tokens of others, and each side has the hardware and the number of replicas that
it needs.

```text
client ──HTTP──▶ LLMIngress ──▶ DecodeServer ──▶ PrefillServer       (requests)
                                     ◀╌╌ KV cache ╌╌┘                (a KV connector of vLLM's)
```
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, model_validator

import headrace as serve
from headrace.config.model import ConfigModel, JsonObject
from headrace.config.problems import shown
from headrace.exceptions import ConfigError, HeadraceError
from headrace.llm.batch.config import BatchConfig
from headrace.llm.build import build_llm_deployment, openai_front
from headrace.llm.config.llm_config import LLMConfig
from headrace.llm.config.serving_args import IngressClsConfig, LLMServingArgs
from headrace.llm.kv_transfer import replica_config, transfer_config, uses_nixl
from headrace.llm.parallelism import ParallelSizes
from headrace.llm.remote_prefill import RemotePrefill
from headrace.llm.server import LLMServer, read_config

_NIXL_PORT = "VLLM_NIXL_SIDE_CHANNEL_PORT"
_NIXL_PORT_BASE = "NIXL_SIDE_CHANNEL_PORT_BASE"


def _config(given: Any) -> LLMConfig:
    try:
        config = read_config(given) if isinstance(given, LLMConfig | Mapping | str) else None
    except ConfigError as error:
        raise ValueError(str(error)) from None
    if config is None:
        raise ValueError(f"must be an LLMConfig, a dict with its fields or the path of a YAML file, not {shown(given)}")
    return config


class PDServingArgs(ConfigModel):
    """Arguments of `build_pd_openai_app`.

    Attributes:
        prefill_config: of the deployment that computes prompts: an `LLMConfig`, a dict with its fields, or the path of
            a YAML file.
        decode_config: of the deployment that generates; of the same model.
        ingress_cls_config: the class of the front.
        ingress_deployment_config: options of its deployment.
        api_keys: as in `LLMServingArgs`.
        batch_config: as in `LLMServingArgs`.
    """

    title: ClassVar[str] = "wrong PDServingArgs"

    prefill_config: Annotated[LLMConfig, BeforeValidator(_config)]
    decode_config: Annotated[LLMConfig, BeforeValidator(_config)]
    ingress_cls_config: IngressClsConfig = Field(default_factory=IngressClsConfig)
    ingress_deployment_config: JsonObject = Field(default_factory=dict)
    api_keys: Any = ()
    batch_config: BatchConfig | None = Field(default_factory=BatchConfig)

    @model_validator(mode="after")
    def _of_one_model(self) -> Self:
        prefill, decode = self.prefill_config, self.decode_config
        if prefill.model_id != decode.model_id:
            raise ValueError(
                f"prefill_config and decode_config must have one model_id, not {shown(prefill.model_id)} and "
                f"{shown(decode.model_id)}"
            )
        places = [
            None if one.lora_config is None else one.lora_config.dynamic_lora_loading_path for one in (prefill, decode)
        ]
        if (prefill.lora_config is None) != (decode.lora_config is None) or places[0] != places[1]:
            raise ValueError(
                "prefill_config.lora_config and decode_config.lora_config must find adapters in the same place: set "
                "both, with one dynamic_lora_loading_path, or neither"
            )
        for name, config in (("prefill_config", prefill), ("decode_config", decode)):
            try:
                transfer_config(config)
            except ConfigError as error:
                raise ValueError(f"{name}.{error}") from None
        return self


class PrefillServer(LLMServer):
    """An `LLMServer` that computes prompts for others."""

    async def __init__(self, llm_config: LLMConfig | Mapping[str, Any]) -> None:  # type: ignore[misc]
        config = replica_config(read_config(llm_config))
        _own_side_channel(config)
        await super().__init__(config)


class DecodeServer(LLMServer):
    """An `LLMServer` that goes on from prompts that others have computed.

    Args:
        prefill_server: the deployment of the `PrefillServer`.
    """

    async def __init__(  # type: ignore[misc]
        self, llm_config: LLMConfig | Mapping[str, Any], prefill_server: serve.DeploymentHandle[Any]
    ) -> None:
        config = replica_config(read_config(llm_config))
        _own_side_channel(config)
        await super().__init__(config)
        hides_tools = bool(config.engine_kwargs.get("exclude_tools_when_tool_choice_none"))
        self.engine = RemotePrefill(self.engine, config.model_id, prefill_server, hides_tools)


def build_pd_openai_app(pd_serving_args: PDServingArgs | Mapping[str, Any]) -> serve.Application[Any]:
    """An application that answers OpenAI's API for one model, whose prompts are computed by one deployment and whose
    answers are generated by another.

    ```yaml
    applications:
      - import_path: headrace.llm:build_pd_openai_app
        args:
          prefill_config: &side
            model: Qwen/Qwen2.5-0.5B-Instruct
            kv_transfer_config: {kv_connector: NixlConnector, kv_role: kv_both}
          decode_config: *side
    ```

    Args:
        pd_serving_args: `PDServingArgs`, or a dict with its fields.

    Raises:
        ConfigError: something is wrong, or cannot be given here.
    """
    args = pd_serving_args if isinstance(pd_serving_args, PDServingArgs) else PDServingArgs(**pd_serving_args)
    prefill = build_llm_deployment(args.prefill_config, name_prefix="Prefill:", deployment_cls=PrefillServer)
    decode = build_llm_deployment(
        args.decode_config,
        name_prefix="Decode:",
        deployment_cls=DecodeServer,
        bind_kwargs={"prefill_server": prefill},
    )
    front = LLMServingArgs(
        llm_configs=[args.decode_config],
        ingress_cls_config=args.ingress_cls_config,
        ingress_deployment_config=args.ingress_deployment_config,
        api_keys=args.api_keys,
        batch_config=args.batch_config,
    )
    return openai_front(front, {args.decode_config.model_id: decode})


def _own_side_channel(config: LLMConfig) -> None:
    """A port of this replica's own for NIXL's handshakes: vLLM's default is one for all."""
    if not uses_nixl(transfer_config(config)) or _NIXL_PORT in os.environ:
        return
    sizes = ParallelSizes.of(config.engine_kwargs)
    base = config.experimental_configs.get(_NIXL_PORT_BASE)
    if base is None:
        os.environ[_NIXL_PORT] = str(_free_ports(sizes.data))
        return
    rank = 0
    with contextlib.suppress(HeadraceError):
        rank = serve.get_replica_context().rank.rank
    os.environ[_NIXL_PORT] = str(int(base) + rank * sizes.workers)


def _free_ports(number: int) -> int:
    """The first of so many ports in a row that are free now."""
    while True:
        with contextlib.ExitStack() as taken, contextlib.suppress(OSError):
            first = taken.enter_context(socket.create_server(("127.0.0.1", 0)))
            port: int = first.getsockname()[1]
            for further in range(port + 1, port + number):
                taken.enter_context(socket.create_server(("127.0.0.1", further)))
            return port
