"""An engine without a model: it answers deterministic text at a stated pace. For load tests, and for developing
clients."""

from headrace.llm.engines.simulated.engine import SimulatedEngine

__all__ = ["SimulatedEngine"]
