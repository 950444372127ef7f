"""The benchmark's applications in Mosec: a Rust front, and stages of synchronous worker processes.

python mosec_api.py APP PORT [SIZE]   (Mosec reads its own options from MOSEC_* variables)
"""

# mypy: ignore-errors
from __future__ import annotations

import os
import sys

import numpy as np
from mosec import Server, SSEWorker, Worker


class Text(Worker):
    """Answers text as it is, where Mosec's default is indented JSON."""

    resp_mime_type = "text/plain"

    def serialize(self, data: str) -> bytes:
        return data.encode()


class NoOp(Text):
    def forward(self, data: object) -> str:
        return "ok"


class First(Worker):
    def forward(self, data: object) -> str:
        return "ok"


class Echo(Text):
    def forward(self, data: str) -> str:
        return data


class Stream(SSEWorker):
    def forward(self, data: object) -> str:
        for number in range(100):
            self.send_stream_event(f'{{"token": "word{number}"}}')
        return ""


class SendArray(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.array = np.resize(np.arange(251, dtype=np.uint8), int(os.environ["BENCH_SIZE"]))

    def forward(self, data: object) -> np.ndarray:
        return self.array


class Measure(Text):
    def forward(self, data: np.ndarray) -> str:
        return f"{data.nbytes} {data[0]} {data[-1]}"


class Batch(Text):
    def forward(self, data: list[dict[str, float]]) -> list[str]:
        return [str(2 * item["x"]) for item in data]


STAGES = {
    "noop": [NoOp],
    "noop-sync": [NoOp],
    "chain": [First, Echo],
    "sse": [Stream],
    "array": [SendArray, Measure],
}

if __name__ == "__main__":
    server = Server()
    if sys.argv[1] == "batch":
        server.append_worker(Batch, max_batch_size=32, max_wait_time=5)
    else:
        for stage in STAGES[sys.argv[1]]:
            server.append_worker(stage)
    server.run()
