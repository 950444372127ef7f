"""The API that clients see: OpenAI's (and its kin), over any number of models."""

from headrace.llm.api.api_keys import ApiKey, generate_api_key, hash_api_key, read_api_keys
from headrace.llm.api.backend import Affinity, Backend, LocalBackend
from headrace.llm.api.errors import ApiError
from headrace.llm.api.front import DEFAULT_MAX_BODY_BYTES, create_front
from headrace.llm.api.handle_backend import AnswerItem, HandleBackend, answer_items
from headrace.llm.api.limiter import HandleLimiter, Limiter, LocalLimiter, RateLimiter

__all__ = [
    "DEFAULT_MAX_BODY_BYTES",
    "Affinity",
    "AnswerItem",
    "ApiError",
    "ApiKey",
    "Backend",
    "HandleBackend",
    "HandleLimiter",
    "Limiter",
    "LocalBackend",
    "LocalLimiter",
    "RateLimiter",
    "answer_items",
    "create_front",
    "generate_api_key",
    "hash_api_key",
    "read_api_keys",
]
