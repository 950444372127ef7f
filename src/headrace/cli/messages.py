"""What the commands print: consoles, and how an error looks."""

from __future__ import annotations

import threading

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from headrace.exceptions import (
    ApplicationBuildError,
    ConfigError,
    DeploymentFailedError,
    HeadraceError,
    NotRunningError,
    SerializationError,
    StartupError,
)

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
bars_on_screen = threading.Event()
"""Set while progress bars are drawn on `err`, and whoever writes to the terminal must write around them."""

_TITLES: tuple[tuple[type[HeadraceError], str], ...] = (
    (ConfigError, "Something is wrong with the configuration"),
    (ApplicationBuildError, "The application cannot be built"),
    (SerializationError, "The application cannot be sent to its processes"),
    (DeploymentFailedError, "The deployment failed"),
    (StartupError, "Headrace cannot start"),
    (NotRunningError, "Headrace is not running"),
)


def show_error(error: HeadraceError, title: str | None = None) -> None:
    """Prints the error for people: in a frame on a terminal, as plain lines elsewhere."""
    title = title or next((title for kind, title in _TITLES if isinstance(error, kind)), "Error")
    text = _with_users_traceback(error)
    if err.is_terminal:
        err.print(Panel(Text(text), title=title, title_align="left", border_style="red"))
    else:
        err.print(Text(f"{title}: {text}"), soft_wrap=True)


def _with_users_traceback(error: HeadraceError) -> str:
    """The message, and where in the user's own code it was raised, if it was."""
    if error.__cause__ is None:
        return str(error)
    from headrace.build_process import readable

    return readable(error)
