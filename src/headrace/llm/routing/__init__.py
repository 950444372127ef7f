"""Which replica of a model gets a request: by prefix of the prompt, by session, by adapter."""

from headrace.llm.routing.prefix_affinity import PrefixAffinity
from headrace.llm.routing.routing_hint import RoutingHint
from headrace.llm.routing.session_affinity import SessionAffinity

__all__ = ["PrefixAffinity", "RoutingHint", "SessionAffinity"]
