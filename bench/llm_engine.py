"""Headrace over vLLM beside `vllm serve`, with the same engine, the same flags and the same requests.

    HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=1 python -m bench.llm_engine [--streams 1,8,32] [--rounds 3]

Runs in an environment with vLLM (or its CPU build) and Headrace. Both servers are up all the time and are asked in
turn, so that what else the machine does hits both alike; the figures are medians of the rounds. The model is a random
Llama made on the spot, unless `--model` names one.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import processes
from bench.llm_client import PATH, Answer, chat_body, closed_loop
from bench.peer import Request
from bench.server import free_port, start_process, wait_for_status

MODEL_ID = "m"
START_TIMEOUT_S = 300.0
_ENVIRONMENT = ("HF_HUB_OFFLINE", "TORCHDYNAMO_DISABLE", "VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND")


@dataclass(frozen=True)
class Figures:
    """Of one round. Seconds, but for the first."""

    tokens_per_s: float
    first_p50: float
    between_p50: float
    between_p90: float

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Figures:
        wrong = next((answer.error for answer in answers if answer.error is not None), None)
        if wrong is not None:
            raise SystemExit(f"a request failed: {wrong}")
        answers = [answer for answer in answers if answer.tokens]
        ended = max(answer.tokens[-1] for answer in answers)
        began = min(answer.began for answer in answers)
        between = [b - a for answer in answers for a, b in itertools.pairwise(answer.tokens)]
        return cls(
            sum(answer.answer_tokens or 0 for answer in answers) / (ended - began),
            statistics.median(answer.tokens[0] - answer.began for answer in answers),
            statistics.median(between),
            statistics.quantiles(between, n=10)[-1],
        )

    @classmethod
    def median(cls, rounds: Sequence[Figures]) -> Figures:
        """Of each figure by itself."""
        return cls(*(statistics.median(getattr(one, name) for one in rounds) for name in cls.__dataclass_fields__))


@contextmanager
def serving(command: list[str], name: str) -> Iterator[int]:
    """Start a server; gives its port."""
    scratch = Path(tempfile.mkdtemp(prefix="hb-"))
    port = free_port()
    variables = {key: os.environ[key] for key in _ENVIRONMENT if key in os.environ}
    variables |= {"HEADRACE_SESSIONS": f"{scratch}/s", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    leader = start_process([*command, "--port", str(port)], variables, scratch)
    try:
        request = Request("POST", PATH, chat_body(MODEL_ID, "Hello", 4).decode())
        wait_for_status(leader, port, request, START_TIMEOUT_S)
        yield port
    except Exception:
        print(f"--- {name}:\n{(scratch / 'server.log').read_text(errors='replace')[-3000:]}", file=sys.stderr)
        raise
    finally:
        processes.end_all(leader)
        shutil.rmtree(scratch, ignore_errors=True)


def prompts(tokens: int) -> Iterator[bytes]:
    """Requests with prompts that share no beginning."""
    for number in itertools.count():
        words = " ".join(f"{(number * 7919 + i * 104729) % 99991}" for i in range(8))
        yield chat_body(MODEL_ID, words, tokens)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default="1,8,32", help="concurrent streams (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each server at each number (%(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="per answer (%(default)s)")
    parser.add_argument("--model", type=Path, default=None, help="folder; default: a random Llama")
    parser.add_argument("--hidden-size", type=int, default=1024, help="of the random Llama (%(default)s)")
    parser.add_argument("--layers", type=int, default=8, help="of the random Llama (%(default)s)")
    arguments = parser.parse_args()
    processes.adopt_orphans()
    processes.go_first()
    console = Console(width=120, highlight=False)
    with tempfile.TemporaryDirectory(prefix="hb-model-") as folder:
        model = arguments.model
        if model is None:
            from tests.llm.tiny_llama import make_tiny_llama

            sizes = {"hidden_size": arguments.hidden_size, "layers": arguments.layers, "vocabulary": 512}
            model = make_tiny_llama(Path(folder), **sizes)
        flags = ["--served-model-name", MODEL_ID, "--max-model-len", "512", "--max-num-seqs", "64", "--enforce-eager"]
        here = Path(sys.executable).parent
        alone = [str(here / "vllm"), "serve", str(model), *flags]
        through = [str(here / "headrace"), "llm", "serve", str(model), "--engine", "vllm", *flags]
        table = Table("streams", "server", "tokens/s", "first token p50", "between tokens p50", "p90")
        with serving(alone, "vllm serve") as first, serving(through, "headrace") as second:
            bodies = prompts(arguments.tokens)
            for streams in map(int, arguments.streams.split(",")):
                requests = max(4, 2 * streams)
                rounds: dict[int, list[Figures]] = {first: [], second: []}
                for number in range(-1, arguments.rounds):
                    # Each goes first as often as the other; the first round warms up.
                    for port in (first, second) if number % 2 else (second, first):
                        answers = asyncio.run(closed_loop(port, bodies, streams, requests))
                        if number >= 0:
                            rounds[port].append(Figures.of(answers))
                ours, theirs = Figures.median(rounds[second]), Figures.median(rounds[first])
                _add_rows(table, streams, ours, theirs)
        console.print(table)
    return 0


def _add_rows(table: Table, streams: int, ours: Figures, theirs: Figures) -> None:
    def row(name: str, figures: Figures) -> list[str]:
        milliseconds = (figures.first_p50, figures.between_p50, figures.between_p90)
        return [name, f"{figures.tokens_per_s:,.1f}", *(f"{1000 * value:.2f} ms" for value in milliseconds)]

    names = Figures.__dataclass_fields__
    ratios = [f"{getattr(ours, name) / getattr(theirs, name):.3f}" for name in names]
    table.add_row(str(streams), *row("vllm serve", theirs))
    table.add_row("", *row("Headrace", ours))
    table.add_row("", "ratio", *ratios, end_section=True)


if __name__ == "__main__":
    sys.exit(main())
