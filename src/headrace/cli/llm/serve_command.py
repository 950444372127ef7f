"""The parser of `headrace llm serve`, which also understands command lines of `vllm serve`."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from headrace.cli.llm.vllm_command_line import in_our_words


class ServeCommand(TyperCommand):
    """Rewrites the arguments before they are read: `-tp 2`, for one, would be read as `-t -p 2`, a port.

    What was left out is in `ctx.meta[NOTES]`.
    """

    NOTES = "headrace.llm.notes"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args, ctx.meta[self.NOTES] = in_our_words(args)
        return super().parse_args(ctx, args)
