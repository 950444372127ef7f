"""The commands of `headrace llm`, put together."""

from __future__ import annotations

import typer

from headrace.cli.llm.batch import batch
from headrace.cli.llm.chat import chat
from headrace.cli.llm.key import key
from headrace.cli.llm.serve import serve
from headrace.cli.llm.serve_command import ServeCommand
from headrace.cli.reflow import reflow

llm = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help=reflow("""Serve large language models with an OpenAI-compatible API, and use them.

    [bold]Examples[/bold]

    [cyan]$ headrace llm serve Qwen/Qwen2.5-0.5B-Instruct[/cyan]
    [cyan]$ headrace llm chat[/cyan]"""),
)
llm.command(
    cls=ServeCommand,
    help=reflow(serve.__doc__ or ""),
    # What is not known here is the engine's.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(serve)
llm.command(help=reflow(chat.__doc__ or ""))(chat)
llm.command(help=reflow(batch.__doc__ or ""))(batch)
llm.command(help=reflow(key.__doc__ or ""))(key)
