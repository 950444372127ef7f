"""`LLMIngress`: one API over several models, each a deployment of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import headrace as serve
from headrace.llm.adapters import known_adapters
from headrace.llm.api import ApiKey, HandleBackend, HandleLimiter, create_front
from headrace.llm.api.asgi import ASGIApp
from headrace.llm.batch.routes import BatchRoutes
from headrace.llm.config.llm_config import LLMConfig
from headrace.llm.server_options import scales_to_zero
from headrace.llm.sleep_routes import HandleSleeper, sleep_mounts


@serve.ingress()
class LLMIngress:
    """Answers OpenAI's API for several models.

    Args:
        llm_deployments: by model id; applications, which become handles.
        llm_configs: of these models, as far as the front goes by them.
        batches: what keeps files and works batches off; None for neither.
        max_batch_file_bytes: longest file that may be uploaded.
        api_keys: who may ask; none of them: everybody.
        limiter: a `RateLimiter`, which counts what these keys use; None where this replica counts for itself.
    """

    def __init__(
        self,
        llm_deployments: Mapping[str, serve.DeploymentHandle[Any]],
        llm_configs: Mapping[str, LLMConfig],
        batches: serve.DeploymentHandle[Any] | None = None,
        max_batch_file_bytes: int = 0,
        api_keys: Sequence[ApiKey] = (),
        limiter: serve.DeploymentHandle[Any] | None = None,
    ) -> None:
        self._api_keys = api_keys
        self._limiter = None if limiter is None else HandleLimiter(limiter)
        self._mounts: dict[str, ASGIApp] = {}
        if batches is not None:
            routes = BatchRoutes(batches, max_batch_file_bytes)
            self._mounts = {"/v1/files": routes, "/v1/batches": routes}
        sleepers = {
            model_id: HandleSleeper(handle)
            for model_id, handle in llm_deployments.items()
            if llm_configs[model_id].sleep_endpoints
        }
        self._mounts |= sleep_mounts(sleepers) if sleepers else {}
        self._backends = {
            model_id: HandleBackend(
                handle,
                adapters=known_adapters(llm_configs[model_id]),
                starts_on_demand=scales_to_zero(llm_configs[model_id]),
            )
            for model_id, handle in llm_deployments.items()
        }

    def __serve_build_asgi_app__(self) -> Any:
        return create_front(self._backends, api_keys=self._api_keys, limiter=self._limiter, mounts=self._mounts)
