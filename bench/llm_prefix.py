"""What prefix routing gains: conversations of several turns on two vLLM replicas with prefix caching.

    HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=1 python -m bench.llm_prefix [--conversations 16] [--turns 5]

The same conversations, with the same random Llama, once by the default policy (power of two choices) and once by
prefix. Each turn sends the whole conversation so far; conversations run side by side. Between two turns a user thinks
for a random time: one who answers at once always finds the replica least loaded that has just answered, by any policy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import processes
from bench.llm_client import PATH, Answer, ask, chat_body
from bench.peer import APPS, Request
from bench.server import free_port, start_process, wait_for_status

MODEL_ID = "m"
START_TIMEOUT_S = 400.0
ROUTERS = {"power of two choices": None, "by prefix": "headrace.llm.routing:PrefixAffinity"}


@contextmanager
def serving(model: Path, router: str | None) -> Iterator[int]:
    """Two replicas; gives the port."""
    scratch = Path(tempfile.mkdtemp(prefix="hb-"))
    port = free_port()
    settings = {
        "model": str(model),
        "replicas": 2,
        "router": router,
        "max_model_len": 2048,
        "max_num_seqs": 32,
        "enforce_eager": True,
        "enable_prefix_caching": True,
        "block_size": 32,  # the CPU build's 128 tokens are a whole turn here
        "enable_prompt_tokens_details": True,
    }
    command = [sys.executable, str(APPS / "llm_api.py"), "vllm", str(port), json.dumps(settings)]
    kept = ("HF_HUB_OFFLINE", "TORCHDYNAMO_DISABLE", "VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND")
    # Else both replicas' engines are bound to the same core.
    variables = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    variables |= {name: os.environ[name] for name in kept if name in os.environ}
    leader = start_process(command, {**variables, "HEADRACE_SESSIONS": f"{scratch}/s"}, scratch)
    try:
        request = Request("POST", PATH, chat_body(MODEL_ID, "Hello", 4).decode())
        wait_for_status(leader, port, request, START_TIMEOUT_S)
        yield port
    except Exception:
        print((scratch / "server.log").read_text(errors="replace")[-3000:], file=sys.stderr)
        raise
    finally:
        processes.end_all(leader)
        shutil.rmtree(scratch, ignore_errors=True)


async def converse(port: int, number: int, turns: int, think_s: float) -> list[Answer]:
    """One conversation, the same each time. Its beginning is its own; a system message is shared by all."""
    messages = [{"role": "system", "content": "You are the miller of a small mill and know all about water. " * 4}]
    answers = []
    thinking = random.Random(number)
    for turn in range(turns):
        await asyncio.sleep(thinking.expovariate(1 / think_s))
        said = " ".join(f"{(number * 7919 + turn * 31 + word * 104729) % 99991}" for word in range(20))
        messages.append({"role": "user", "content": said})
        answer = await ask(port, chat_body(MODEL_ID, messages, 16))
        if answer.error is not None:
            raise SystemExit(f"a request failed: {answer.error}")
        answers.append(answer)
        messages.append({"role": "assistant", "content": answer.text})
    return answers


async def trace(port: int, conversations: int, turns: int, think_s: float) -> list[Answer]:
    """All conversations side by side; the answers from the second turn on."""
    # What a replica does once, at its first requests, is not of the policy.
    await asyncio.gather(*(converse(port, conversations + number, 2, 0.1) for number in range(4)))
    conversing = (converse(port, number, turns, think_s) for number in range(conversations))
    return [answer for answers in await asyncio.gather(*conversing) for answer in answers[1:]]


def busiest(port: int) -> float:
    """The share of the requests that the busier replica had."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    counter = re.compile(r'ray_serve_deployment_request_counter_total\{.*deployment="LLMServer:.*\} (\S+)')
    counts = [float(found[1]) for line in lines if (found := counter.match(line))]
    return max(counts) / sum(counts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=16)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--think", type=float, default=5.0, metavar="S", help="on average (%(default)s seconds)")
    parser.add_argument("--hidden-size", type=int, default=1024, help="of the random Llama (%(default)s)")
    parser.add_argument("--layers", type=int, default=8, help="of the random Llama (%(default)s)")
    arguments = parser.parse_args()
    processes.adopt_orphans()
    processes.go_first()
    from tests.llm.tiny_llama import make_tiny_llama

    table = Table("policy", "prompt tokens", "in the cache", "first token p50", "p90", "busier replica")
    with tempfile.TemporaryDirectory(prefix="hb-model-") as folder:
        sizes = {"hidden_size": arguments.hidden_size, "layers": arguments.layers, "vocabulary": 512}
        model = make_tiny_llama(Path(folder), **sizes)
        for name, router in ROUTERS.items():
            with serving(model, router) as port:
                answers = asyncio.run(trace(port, arguments.conversations, arguments.turns, arguments.think))
                share = busiest(port)
            prompt = sum(answer.prompt_tokens or 0 for answer in answers)
            cached = sum(answer.cached_tokens or 0 for answer in answers)
            first = [1000 * (answer.tokens[0] - answer.began) for answer in answers]
            slow = statistics.quantiles(first, n=10)[-1]
            times = (f"{statistics.median(first):.0f} ms", f"{slow:.0f} ms")
            table.add_row(name, f"{prompt:,}", f"{cached / prompt:.1%}", *times, f"{share:.0%}")
    Console(width=120, highlight=False).print(table)
    print("turns after the first; the first has nothing to find but the system message")
    return 0


if __name__ == "__main__":
    sys.exit(main())
