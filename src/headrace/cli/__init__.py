"""The `headrace` command."""

from __future__ import annotations


def main() -> None:
    """Run the command with the arguments of this process."""
    from headrace.cli.app import app

    app()
