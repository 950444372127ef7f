"""The token of the REST API, where the environment says it: for those who check it and those who send it."""

from __future__ import annotations

import os
from collections.abc import Mapping

TOKEN_VARIABLE = "HEADRACE_REST_TOKEN"


def rest_token(environment: Mapping[str, str] = os.environ) -> str | None:
    """`$HEADRACE_REST_TOKEN`; else the token of the Ray cluster that this is part of, if it is one with tokens.

    KubeRay gives its pods the cluster's token in `RAY_AUTH_TOKEN`, and sends it with all that it asks.
    """
    token = environment.get(TOKEN_VARIABLE)
    if not token and environment.get("RAY_AUTH_MODE", "").lower() == "token":
        token = environment.get("RAY_AUTH_TOKEN")
    return token or None
