"""Streams of chat completions over plain sockets, with the moment of every token kept.

A client of its own, because on one machine the client takes CPU from the server: a library's parsing of each event
would be a good part of what is measured.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

PATH = "/v1/chat/completions"


@dataclass
class Answer:
    """One streamed answer. Moments are of `time.perf_counter`, seconds.

    Attributes:
        began: when the request was sent.
        tokens: when each event with text was there.
        text: all of it.
        cached_tokens: of the prompt, that were in the KV cache; None where the server does not say.
        prompt_tokens, answer_tokens: as the server counted them; None where it does not say. Several tokens may come
            in one event, and one that is half a character in none.
        error: what went wrong; None for nothing.
    """

    began: float
    tokens: list[float] = field(default_factory=list)
    text: str = ""
    cached_tokens: int | None = None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    error: str | None = None


def chat_body(model: str, prompt: str | list[dict[str, str]], tokens: int) -> bytes:
    """A request for exactly `tokens` tokens; `prompt` is one message, or the whole conversation."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return json.dumps(
        {
            "model": model,
            "messages": messages,
            "max_tokens": tokens,
            "min_tokens": tokens,
            "ignore_eos": True,
            # A random model's likeliest token is often the same one for ever, and may be one without text.
            "temperature": 1,
            "seed": 1,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()


async def ask(port: int, body: bytes, timeout_s: float = 120.0) -> Answer:
    """One request on a connection of its own."""
    answer = Answer(0.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(timeout_s):
            head = f"POST {PATH} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\ncontent-type: application/json\r\n"
            answer.began = time.perf_counter()
            writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
            status = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
            if status != b"200":
                answer.error = f"status {status.decode()}: {(await reader.read(2000)).decode(errors='replace')}"
                return answer
            rest, parts = b"", []
            while data := await reader.read(65536):
                now = time.perf_counter()
                # An event may end in the next read; those that are whole arrived now.
                *events, rest = (rest + data).split(b"\n\n")
                tokens = [event for event in events if b'"content":"' in event and b'"content":""' not in event]
                answer.tokens += [now] * len(tokens)
                parts += events
            _read_all(answer, parts)  # after the last token, so that parsing delays none
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        answer.error = str(error) or type(error).__name__
    finally:
        writer.close()
    return answer


def _read_all(answer: Answer, events: list[bytes]) -> None:
    for event in events:
        start = event.find(b"{")
        if start < 0:
            continue
        chunk = json.loads(event[start:])
        for choice in chunk.get("choices", ()):
            answer.text += choice["delta"].get("content") or ""
        usage = chunk.get("usage")
        if usage:
            answer.prompt_tokens, answer.answer_tokens = usage["prompt_tokens"], usage["completion_tokens"]
            answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")


async def closed_loop(port: int, bodies: Iterator[bytes], streams: int, requests: int) -> list[Answer]:
    """So many requests, `streams` at a time."""
    left = requests
    answers: list[Answer] = []

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            answers.append(await ask(port, next(bodies)))

    await asyncio.gather(*(client() for _ in range(streams)))
    return answers
