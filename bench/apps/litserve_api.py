"""The benchmark's applications in LitServe: one API server process and one worker process.

python litserve_api.py APP PORT
"""

# mypy: ignore-errors
from __future__ import annotations

import sys
from collections.abc import Iterator

import litserve


class NoOp(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    async def decode_request(self, request: dict) -> dict:
        return request

    async def predict(self, request: dict) -> str:
        return "ok"

    async def encode_response(self, output: str) -> str:
        return output


class NoOpSync(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def predict(self, request: dict) -> str:
        return "ok"


class Stream(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def predict(self, request: dict) -> Iterator[str]:
        for number in range(100):
            yield f'data: {{"token": "word{number}"}}\n\n'

    def encode_response(self, output: Iterator[str]) -> Iterator[str]:
        yield from output


class Batch(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: dict) -> float:
        return request["x"]

    def batch(self, inputs: list[float]) -> list[float]:
        return inputs

    def predict(self, numbers: list[float]) -> list[float]:
        return [2 * number for number in numbers]

    def unbatch(self, output: list[float]) -> list[float]:
        return output

    def encode_response(self, output: float) -> str:
        return str(output)


APIS = {
    "noop": lambda: NoOp(api_path="/", enable_async=True),
    "noop-sync": lambda: NoOpSync(api_path="/"),
    "sse": lambda: Stream(api_path="/", stream=True),
    "batch": lambda: Batch(api_path="/", max_batch_size=32, batch_timeout=0.005),
}

if __name__ == "__main__":
    server = litserve.LitServer(APIS[sys.argv[1]](), accelerator="cpu", devices=1, workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning", access_log=False
    )
