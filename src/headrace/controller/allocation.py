"""Setting aside what several replicas need together."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.engine.protocol import Engine
from headrace.engine.resources import Allocation, Refusal, ResourceRequest


def allocate_all(engine: Engine, requests: Mapping[str, ResourceRequest]) -> list[Allocation] | Refusal:
    """Set aside what each process of `requests` needs, or, if one is refused, nothing.

    Args:
        requests: by the names of the processes.
    """
    granted: list[Allocation] = []
    for name, request in requests.items():
        answer = engine.allocate(name, request)
        if isinstance(answer, Refusal):
            for each in requests:
                engine.release(each)
            return answer
        granted.append(answer)
    return granted
