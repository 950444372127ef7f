"""The one way in which these tests look at a mistake: the whole message, as the user reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from headrace.exceptions import ConfigError


def message(make: Callable[..., Any], /, *args: Any, **given: Any) -> str:
    """What `make(*args, **given)` tells the user who got it wrong."""
    with pytest.raises(ConfigError) as caught:
        make(*args, **given)
    return str(caught.value)
