"""`LLMIngress`: one API over several models, each a deployment of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import headrace as serve
from headrace.llm.api import HandleBackend, create_front
from headrace.llm.config import LLMConfig
from headrace.llm.server_options import scales_to_zero


@serve.ingress()
class LLMIngress:
    """Answers OpenAI's API for several models.

    Args:
        llm_deployments: by model id; applications, which become handles.
        llm_configs: of these models.
    """

    def __init__(
        self, llm_deployments: Mapping[str, serve.DeploymentHandle[Any]], llm_configs: Mapping[str, LLMConfig]
    ) -> None:
        self._backends = {
            model_id: HandleBackend(
                handle,
                adapters=None if llm_configs[model_id].lora_config is None else (),
                starts_on_demand=scales_to_zero(llm_configs[model_id]),
            )
            for model_id, handle in llm_deployments.items()
        }

    def __serve_build_asgi_app__(self) -> Any:
        return create_front(self._backends)
