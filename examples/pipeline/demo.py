"""Serves the pipeline, sends it the documents that lie beside this file, and prints the answers.

`bash scripts/demo` sets everything up and runs this.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

import httpx
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

import headrace as serve

from .app import build
from .schema import Analysis, Arguments

DOCUMENTS = sorted(Path(__file__).with_name("documents").glob("*.txt"))
COLOURS = {"positive": "green", "negative": "red", "neutral": "yellow"}


def parse_command_line() -> argparse.Namespace:
    defaults = Arguments()
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Serve a pipeline of models and try it.")
    parser.add_argument("--exit", action="store_true", help="end after the answers instead of serving on")
    parser.add_argument("--port", type=int, default=8000, help="where to listen on 127.0.0.1 (default: %(default)s)")
    parser.add_argument(
        "--models",
        choices=["builtin", "transformers"],
        default=defaults.models,
        help="builtin: no download; transformers: models of the Hugging Face hub, some 3 GB (default: %(default)s)",
    )
    group = parser.add_argument_group("models for --models transformers: names on the hub, or folders")
    group.add_argument("--tokenizer-model", default=defaults.tokenizer_model, help="(default: %(default)s)")
    group.add_argument("--sentiment-model", default=defaults.sentiment_model, help="(default: %(default)s)")
    group.add_argument("--summary-model", default=defaults.summary_model, help="(default: %(default)s)")
    group.add_argument("--num-gpus", type=float, default=0, help="GPUs for each model (default: %(default)s)")
    return parser.parse_args()


def answer_panel(path: Path, text: str, analysis: Analysis, seconds: float) -> Panel:
    words = text.split()
    beginning = " ".join(words[:14]) + (" …" if len(words) > 14 else "")
    sentiment = analysis.sentiment
    fields = Table.grid(padding=(0, 2))
    fields.add_column(style="dim")
    fields.add_column()
    fields.add_row("text", Text(beginning))
    fields.add_row("tokens", str(analysis.original_length))
    fields.add_row(
        "sentiment", Text(f"{sentiment.label} ({sentiment.score:+.2f})", COLOURS.get(sentiment.label, "cyan"))
    )
    fields.add_row("summary", Text(analysis.summary))
    title = path.stem.split("-", 1)[1].replace("-", " ")
    return Panel(fields, title=f"[bold]{title}[/]  [dim]{seconds * 1000:.0f} ms[/]", title_align="left")


def next_steps(url: str) -> list[Text]:
    return [
        Text("Serving on. Press Ctrl-C to stop.\n", style="bold"),
        Text("Try next, from a second terminal:", style="bold"),
        Text(f'  curl -s {url} --json \'{{"text": "What a splendid morning."}}\'', style="cyan"),
        Text(f'  curl -s {url} --json \'{{"txt": "A wrong field gets a 422 that names it."}}\'', style="cyan"),
        Text("  .venv/bin/headrace status", style="cyan"),
        Text("and then:", style="bold"),
        Text(f"  open {url}/docs in a browser: the page was made from the type annotations"),
        Text("  stop this, change examples/pipeline/app.py, and serve it so that further changes show at once:"),
        Text("  .venv/bin/headrace run examples.pipeline.app:app --route-prefix /analyze --reload", style="cyan"),
        Text("  read docs/quickstart.md; more examples lie in examples/"),
    ]


def main() -> int:
    options = parse_command_line()
    console = Console(highlight=False)
    arguments = Arguments(
        models=options.models,
        tokenizer_model=options.tokenizer_model,
        sentiment_model=options.sentiment_model,
        summary_model=options.summary_model,
        num_gpus=options.num_gpus,
    )
    # A shell's `kill` should end the demo as cleanly as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.perf_counter()
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": options.port})
        serve.run(build(arguments), name="pipeline", route_prefix="/analyze")
        url = f"http://127.0.0.1:{options.port}/analyze"
        console.print(f"[bold]{url}[/] is ready after {time.perf_counter() - began:.1f} s\n")
        with httpx.Client(timeout=120) as client:
            for path in DOCUMENTS:
                text = path.read_text().strip()
                sent = time.perf_counter()
                response = client.post(url, json={"text": text})
                seconds = time.perf_counter() - sent
                response.raise_for_status()
                console.print(answer_panel(path, text, Analysis.model_validate_json(response.content), seconds))
        if not options.exit:
            for line in next_steps(url):
                console.print(line, soft_wrap=True)  # commands are there to be copied
            signal.pause()
    except KeyboardInterrupt:
        console.print("\nStopping.")
    except (serve.exceptions.HeadraceError, httpx.HTTPError) as error:
        Console(stderr=True, highlight=False).print(f"[red]error:[/] {error}", soft_wrap=True)
        return 1
    finally:
        serve.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
