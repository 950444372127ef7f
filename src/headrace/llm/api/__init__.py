"""The API that clients see: OpenAI's (and its kin), over any number of models."""

from headrace.llm.api.backend import Affinity, Backend, LocalBackend
from headrace.llm.api.errors import ApiError
from headrace.llm.api.front import DEFAULT_MAX_BODY_BYTES, create_front
from headrace.llm.api.handle_backend import AnswerItem, HandleBackend, answer_items

__all__ = [
    "DEFAULT_MAX_BODY_BYTES",
    "Affinity",
    "AnswerItem",
    "ApiError",
    "Backend",
    "HandleBackend",
    "LocalBackend",
    "answer_items",
    "create_front",
]
