"""From configs to applications."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import headrace as serve
from headrace.llm.api import ApiKey, RateLimiter
from headrace.llm.batch.config import BatchConfig
from headrace.llm.batch.service import BatchService
from headrace.llm.config.llm_config import LLMConfig
from headrace.llm.config.serving_args import LLMServingArgs, load_class
from headrace.llm.ingress import LLMIngress
from headrace.llm.server import LLMServer, made_application, read_config
from headrace.llm.server_options import MAX_ONGOING_REQUESTS, for_the_front, server_name


def build_llm_deployment(
    llm_config: LLMConfig | Mapping[str, Any] | str,
    *,
    name_prefix: str | None = None,
    bind_kwargs: Mapping[str, Any] | None = None,
    override_serve_options: Mapping[str, Any] | None = None,
    deployment_cls: type[Any] | None = None,
) -> serve.Application[Any]:
    """The deployment of one model. Alone it serves HTTP too; in another application it is called through a handle.

    Args:
        llm_config: a config, a dict with its fields, or the path of a YAML file.
        name_prefix: of the deployment's name; None for the class's name and a colon.
        bind_kwargs: more arguments of the class's constructor.
        override_serve_options: options of the deployment that win over those of the config.
        deployment_cls: a class derived from `LLMServer`; None for the config's `server_cls`, or `LLMServer`.

    Raises:
        ConfigError: something is wrong, or cannot be given here.
    """
    config = read_config(llm_config)
    cls = deployment_cls or load_class(config.server_cls) or LLMServer
    options = cls.get_deployment_options(config)
    name = server_name(cls.__name__, config)
    if name_prefix is not None:
        name = name_prefix + name.partition(":")[2]
    options = {"name": name, **options, **(override_serve_options or {})}
    return made_application(cls, options, config, bind_kwargs or {})


def build_openai_app(llm_serving_args: LLMServingArgs | Mapping[str, Any]) -> serve.Application[Any]:
    """An application that answers OpenAI's API for any number of models, each scaled on its own.

    ```yaml
    applications:
      - import_path: headrace.llm:build_openai_app
        args:
          llm_configs:
            - model: Qwen/Qwen2.5-0.5B-Instruct
              deployment_config: {num_replicas: 2}
    ```

    Args:
        llm_serving_args: `LLMServingArgs`, or a dict with its fields.

    Raises:
        ConfigError: something is wrong, or cannot be given here.
    """
    args = llm_serving_args if isinstance(llm_serving_args, LLMServingArgs) else LLMServingArgs(**llm_serving_args)
    return openai_front(args, {config.model_id: build_llm_deployment(config) for config in args.llm_configs})


def openai_front(args: LLMServingArgs, deployments: Mapping[str, serve.Application[Any]]) -> serve.Application[Any]:
    """The front of the API before the deployments of these models.

    Args:
        args: whose `llm_configs` are the models, as clients see them.
        deployments: by model id.
    """
    front = args.ingress_cls_config
    cls = load_class(front.ingress_cls) or LLMIngress
    options: dict[str, Any] = {"max_ongoing_requests": MAX_ONGOING_REQUESTS, **args.ingress_deployment_config}
    asked = [config.experimental_configs.get("num_ingress_replicas") for config in args.llm_configs]
    if any(asked) and not {"num_replicas", "autoscaling_config"} & options.keys():
        options["num_replicas"] = max(number for number in asked if number)
    deployment: serve.Deployment[..., Any] = serve.deployment(**options)(cls)
    configs = {config.model_id: config for config in args.llm_configs}
    arguments = dict(front.ingress_extra_kwargs)
    if args.batch_config is not None:
        arguments["batches"] = _batch_service(deployments, configs, args.batch_config)
        arguments["max_batch_file_bytes"] = args.batch_config.max_file_bytes
    if args.api_keys:
        arguments["api_keys"] = args.api_keys
        if any(key.limited for key in args.api_keys):
            arguments["limiter"] = _limiter(args.api_keys)
    seen = {model_id: for_the_front(config) for model_id, config in configs.items()}
    return deployment.bind(llm_deployments=deployments, llm_configs=seen, **arguments)


def _limiter(api_keys: Sequence[ApiKey]) -> serve.Application[Any]:
    # One replica: the replicas of the ingress share what it counts.
    deployment: serve.Deployment[..., Any] = serve.deployment(
        num_replicas=1, max_ongoing_requests=MAX_ONGOING_REQUESTS
    )(RateLimiter)
    return deployment.bind(api_keys)


def _batch_service(
    deployments: Mapping[str, serve.Application[Any]], configs: Mapping[str, LLMConfig], config: BatchConfig
) -> serve.Application[Any]:
    takes_adapters = frozenset(model_id for model_id, one in configs.items() if one.lora_config is not None)
    # One replica: it alone writes the folder.
    deployment: serve.Deployment[..., Any] = serve.deployment(
        num_replicas=1, max_ongoing_requests=MAX_ONGOING_REQUESTS
    )(BatchService)
    return deployment.bind(deployments, takes_adapters, config)
