"""Request routers under the names that they have in `ray.serve.llm.request_router`."""

from headrace.llm.routing.prefix_affinity import PrefixAffinity as PrefixCacheAffinityRouter

__all__ = ["PrefixCacheAffinityRouter"]
