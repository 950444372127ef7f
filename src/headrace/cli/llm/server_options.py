"""Options of the commands that talk to a server of the OpenAI API."""

from __future__ import annotations

import os
from typing import Annotated

import typer

KEY_VARIABLES = ("HEADRACE_API_KEY", "OPENAI_API_KEY")

Url = Annotated[
    str,
    typer.Option("--url", "-u", metavar="URL", help="Of the server, with its route prefix if it has one."),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        help=f"Sent to the server. Better in the environment: {' or '.join(KEY_VARIABLES)}.",
        show_default=False,
    ),
]
DEFAULT_URL = "http://127.0.0.1:8000"


def api_key(given: str | None) -> str | None:
    """The key that is given, or that the environment has."""
    return given or next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None)
