"""`headrace top`"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.options import Address
from headrace.cli.top_rows import Page, Sort, for_programs, ordered, page_of
from headrace.exceptions import HeadraceError, NotRunningError

if TYPE_CHECKING:
    from headrace.cli.rest import RestClient
    from headrace.cli.scrape_rates import Scrape

_AGAIN_FOR_S = 5.0
"""A controller that died is back by then."""

_WIDE = 200


def top(
    interval: Annotated[
        float,
        typer.Option("--interval", "-i", min=0.2, max=3600, metavar="SECONDS", help="Between two looks."),
    ] = 2.0,
    sort: Annotated[Sort, typer.Option("--sort", "-s", help="What comes first.")] = Sort.requests,
    once: Annotated[bool, typer.Option("--once", help="Print one table, of one interval.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one object per line and interval.")] = False,
    address: Address = None,
) -> None:
    """What deployments do right now: requests per second, latency, queues, replicas, CPU and memory.

    Rates and latencies are of the last interval, as the metrics of the replicas tell. On a terminal
    [cyan]q[/cyan] quits and [cyan]s[/cyan] sorts by another column; elsewhere a table is printed per interval.

    [bold]Examples[/bold]

    [cyan]$ headrace top[/cyan]
    [cyan]$ headrace top --sort p99 --interval 5[/cyan]
    [cyan]$ headrace top --once --json | jq '.deployments[].p99_ms'[/cyan]
    """
    from headrace.cli.messages import out
    from headrace.cli.rest import connect

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the terminal is left as it was
    looks = _Looks(connect(address), sort)
    try:
        if out.is_terminal and not once and not as_json:
            _live(looks, interval)
        else:
            _lines(looks, interval, once, as_json)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # `| head`
        sys.stderr.close()


class _Looks:
    """Looks at an instance time and again."""

    def __init__(self, client: RestClient, sort: Sort) -> None:
        self.sort = sort
        self.page: Page | None = None
        self.note = ""
        self._client = client
        self._before = self._scrape()
        self._began = self._answered = time.monotonic()

    def look(self) -> bool:
        """Take another look; False if there is no answer at present, which `note` says.

        Raises:
            NotRunningError: there has been none for a while.
        """
        from headrace.cli.scrape_rates import loads

        try:
            status, after = self._client.status(), self._scrape()
        except NotRunningError as error:
            return self._unanswered(error)
        except HeadraceError as error:
            if "controller" not in str(error):
                raise
            return self._unanswered(error)
        self._answered = time.monotonic()
        self.note = ""
        seconds = after.at - self._before.at
        self.page = page_of(
            self._client.address, status, loads(self._before, after), seconds, self.sort, after.unanswered
        )
        self._before = after
        return True

    def sort_by(self, sort: Sort) -> None:
        from dataclasses import replace

        self.sort = sort
        if self.page is not None:
            self.page = replace(self.page, rows=ordered(self.page.rows, sort))

    def _unanswered(self, error: HeadraceError) -> bool:
        silent_s = time.monotonic() - self._answered
        if silent_s > _AGAIN_FOR_S:
            watched_s = self._answered - self._began
            raise NotRunningError(
                f"the instance at {self._client.address} has ended, or cannot be reached any more, "
                f"after {watched_s:.0f} s of watching.\n{str(error).splitlines()[0]}"
            ) from None
        self.note = f"no answer for {silent_s:.0f} s"
        return False

    def _scrape(self) -> Scrape:
        from headrace.cli.scrape_rates import read_scrape

        text = self._client.metrics()
        try:
            return read_scrape(text, time.monotonic(), time.time())
        except ValueError as error:
            raise HeadraceError(f"{self._client.address}/metrics is not in Prometheus' format: {error}") from None


def _live(looks: _Looks, interval: float) -> None:
    from rich.live import Live
    from rich.text import Text

    from headrace.cli.keys import keys
    from headrace.cli.messages import out
    from headrace.cli.top_view import TopView

    sorts = list(Sort)
    with keys() as pressed, Live(console=out, screen=True, auto_refresh=False) as live:
        live.update(Text(f"Looking for {interval:g} s …", style="bright_black"), refresh=True)
        # The first figures soon, though of a short time.
        next_look = time.monotonic() + min(interval, 1.0)
        while True:
            key = pressed.wait(next_look - time.monotonic())
            if key in ("q", "Q", "\x03", "\x1b"):
                return
            if key == "s":
                looks.sort_by(sorts[(sorts.index(looks.sort) + 1) % len(sorts)])
            elif not key:
                looks.look()
                next_look = time.monotonic() + interval
            if looks.page is not None:
                live.update(TopView(looks.page, looks.sort, looks.note, keys=True), refresh=True)


def _lines(looks: _Looks, interval: float, once: bool, as_json: bool) -> None:
    from rich.console import Console

    from headrace.cli.messages import out
    from headrace.cli.top_view import TopView

    # Who reads a file or a pipe has room for all columns.
    console = out if out.is_terminal else Console(width=_WIDE, highlight=False)
    show: Callable[[Any], None] = (
        (lambda page: typer.echo(json.dumps(for_programs(page, time.time()))))
        if as_json
        else (lambda page: console.print(TopView(page, looks.sort)))
    )
    first = True
    while True:
        time.sleep(interval)
        if not looks.look():
            continue
        if not first and not as_json:
            console.print()
        first = False
        show(looks.page)
        sys.stdout.flush()
        if once:
            return
