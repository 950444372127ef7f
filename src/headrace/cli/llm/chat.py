"""`headrace llm chat`"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.llm.server_options import DEFAULT_URL, ApiKey, Url, api_key
from headrace.exceptions import ConfigError, HeadraceError

if TYPE_CHECKING:
    from headrace.cli.llm.chat_client import ChatClient

_HELP = "/clear begins anew, /exit ends (so does Ctrl-D), Ctrl-C stops an answer, \\ at the end goes on in a new line"


def chat(
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="[PROMPT]", help="Ask this only, and print the answer.", show_default=False),
    ] = None,
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Its id.", show_default="the first that the server has")
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", "-s", metavar="TEXT", help="How the model is to behave.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", "-t", min=0, help="0 for the likeliest answer.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, metavar="N", help="The most that an answer has.")
    ] = None,
) -> None:
    """Talk to a model in the terminal.

    [bold]Examples[/bold]

    [cyan]$ headrace llm chat[/cyan]
    [cyan]$ headrace llm chat "Why is the sky blue?" --max-tokens 100[/cyan]
    [cyan]$ git diff | headrace llm chat "Write a commit message for this:"[/cyan]
    """
    from headrace.cli.llm.chat_client import ChatClient

    parameters: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
    parameters = {name: value for name, value in parameters.items() if value is not None}
    with ChatClient(url, api_key(key), model, system, parameters) as client:
        models = client.models()
        if client.model is None:
            if not models:
                raise ConfigError(f"the server at {url} has no model")
            client.model = models[0]
        if prompt is None and sys.stdin.isatty():
            _converse(client)
        else:
            given = "" if sys.stdin.isatty() else sys.stdin.read()
            _print_answer(client, "\n\n".join(part for part in (prompt, given.strip()) if part))


def _converse(client: ChatClient) -> None:
    from headrace.cli.messages import err, show_error

    try:
        import readline  # noqa: F401  (history and editing for input())
    except ImportError:
        pass
    err.print(f"[bold]{client.model}[/bold] at {client.url} [dim]· {_HELP}[/dim]")
    while True:
        try:
            text = _read()
        except EOFError:
            err.print()
            return
        except KeyboardInterrupt:
            err.print(f"\n[dim]{_HELP}[/dim]")
            continue
        if text in ("/exit", "/quit"):
            return
        if text == "/clear":
            client.clear()
            err.print("[dim]a new conversation[/dim]")
        elif text.startswith("/"):
            err.print(f"[dim]{_HELP}[/dim]")
        elif text:
            try:
                whole = _print_answer(client, text)
                err.print(f"[dim]{'' if whole else 'stopped · '}{client.figures}[/dim]")
            except HeadraceError as error:
                show_error(error)


def _read() -> str:
    """What the user says: a line, or several of which all but the last end in a backslash, or what was pasted."""
    lines = [input("› ")]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input("… "))
    return "\n".join(lines).strip()


def _print_answer(client: ChatClient, text: str) -> bool:
    """Prints the pieces as they come; Ctrl-C ends the answer, not the program. Returns whether it is the whole."""
    if not text:
        raise ConfigError("there is nothing to ask; give a PROMPT or write to standard input")
    answer = client.ask(text)
    try:
        for piece in answer:
            print(piece, end="", flush=True)
        return True
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        return False
    finally:
        answer.close()
        print(flush=True)
