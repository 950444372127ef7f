"""How far replicas are from this process: on its machine, in its zone, or elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple, Protocol

SAME_NODE = 0
SAME_ZONE = 1
ELSEWHERE = 2


class Located(Protocol):
    @property
    def node(self) -> str: ...
    @property
    def zone(self) -> str: ...


class Here(NamedTuple):
    """Where this process runs. Empty: nobody said, as on the one machine of an instance that has no others."""

    node: str = ""
    zone: str = ""

    @staticmethod
    def of_session(folder: Path) -> Here:
        """What the session folder of this machine says."""
        try:
            data = json.loads((folder / "session.json").read_bytes())
        except (OSError, ValueError):
            return Here()
        return Here(str(data.get("node") or ""), str(data.get("zone") or ""))

    def distance(self, there: Located) -> int:
        """SAME_NODE, SAME_ZONE or ELSEWHERE."""
        if there.node == self.node:
            return SAME_NODE
        return SAME_ZONE if self.zone and there.zone == self.zone else ELSEWHERE
