"""`headrace llm batch`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.llm.server_options import DEFAULT_URL, ApiKey, Url, api_key
from headrace.exceptions import ConfigError

if TYPE_CHECKING:
    from headrace.llm.batch.run import BatchCounts


def batch(
    input_file: Annotated[
        Path, typer.Argument(metavar="IN.jsonl", help="Requests in OpenAI's batch format.", show_default=False)
    ],
    output_file: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="Where the answers go.", show_default=False)],
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, metavar="N", help="Requests under way at a time.")
    ] = 32,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.001, metavar="S", help="How long one answer may take.")
    ] = 3600.0,
) -> None:
    """Work off a file of requests, behind the live ones.

    Stopped or killed, the same command goes on where it was: requests that OUT.jsonl has an answer for are not sent
    again. The server answers live requests first. Exits with 1 if a request was not answered with success.

    [bold]Examples[/bold]

    [cyan]$ headrace llm batch in.jsonl out.jsonl[/cyan]
    [cyan]$ headrace llm batch in.jsonl out.jsonl --url https://llm.example.com --concurrency 128[/cyan]

    A line of IN.jsonl:

    [green]{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions",[/green]
    [green] "body": {"model": "llama", "messages": \\[{"role": "user", "content": "Hello"}]}}[/green]
    """
    import asyncio

    from headrace.cli.messages import err

    counts = asyncio.run(_work_off(input_file, output_file, url, api_key(key), concurrency, timeout))
    style = "red" if counts.failed else "green"
    err.print(f"{counts.completed:,} answered, {counts.failed:,} failed; see {output_file}", style=style)
    if counts.failed:
        raise typer.Exit(1)


async def _work_off(
    input_file: Path, output_file: Path, url: str, key: str | None, concurrency: int, timeout_s: float
) -> BatchCounts:
    from headrace.cli.llm.batch_bar import BatchBar
    from headrace.cli.messages import err
    from headrace.llm.batch.http_sender import HttpSender
    from headrace.llm.batch.lines import BatchRequest, BatchResponse, read_requests
    from headrace.llm.batch.output_file import OutputFile
    from headrace.llm.batch.run import BatchCounts, run_batch

    try:
        with input_file.open("rb") as lines:
            counts = BatchCounts(total=sum(1 for _ in read_requests(lines)))
        with (
            input_file.open("rb") as lines,
            OutputFile(output_file) as output,
            BatchBar(counts, err) as bar,
        ):
            counts.completed = sum(status < 300 for status in output.answered.values())
            counts.failed = len(output.answered) - counts.completed
            bar.begin()

            def done(request: BatchRequest, response: BatchResponse) -> None:
                output.append(request, response)
                if response.succeeded:
                    counts.completed += 1
                else:
                    counts.failed += 1
                bar.show()

            open_ones = (request for request in read_requests(lines) if request.custom_id not in output.answered)
            async with HttpSender(url, key, concurrency, timeout_s) as sender:
                await run_batch(open_ones, sender.send, done, concurrency=concurrency)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    return counts
