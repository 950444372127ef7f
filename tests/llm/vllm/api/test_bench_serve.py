"""vLLM's own load generator, as people run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm")
pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]


def test_vllm_bench_serve_finds_every_answer_complete(api: str, model: Path, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    command = [
        *(str(Path(sys.executable).with_name("vllm")), "bench", "serve"),
        *("--backend", "openai-chat", "--base-url", api, "--endpoint", "/v1/chat/completions"),
        *("--model", "chat", "--tokenizer", str(model)),
        *("--dataset-name", "random", "--random-input-len", "32", "--random-output-len", "8", "--ignore-eos"),
        *("--num-prompts", "12", "--max-concurrency", "4"),
        *("--save-result", "--result-dir", str(tmp_path), "--result-filename", result.name),
    ]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=240)

    assert ended.returncode == 0, ended.stderr[-2000:]
    told = json.loads(result.read_text())
    assert (told["completed"], told["failed"]) == (12, 0)
    assert told["total_output_tokens"] == 12 * 8
    assert told["mean_ttft_ms"] > 0 and told["mean_itl_ms"] > 0
