"""Command lines of `vllm serve` mean the same to `headrace llm serve`."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.cli.llm.lora_modules import adapters_folder
from headrace.cli.llm.vllm_command_line import NEEDLESS, REFUSED, in_our_words
from headrace.exceptions import ConfigError


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("m -tp 2 -pp=3", "m --tensor-parallel-size 2 --pipeline-parallel-size 3"),
        ("m --max_model_len 4k", "m --max-model-len 4k"),
        ("m --max_model_len=4k --port 3", "m --max-model-len 4k --port 3"),
        ("--port 8000 --model m", "m --port 8000"),
        ("m -O3", "m --optimization-level 3"),
        ("m -q awq --enable-auto-tool-choice", "m --quantization awq --enable-auto-tool-choice"),
        ("m --api-key a b --api-key c", "m --api-key a --api-key b --api-key c"),
        ("m --lora-modules a=x b=y", "m --lora-modules a=x b=y"),
        ("m --hf-overrides.rope_theta 1", "m --hf-overrides.rope_theta 1"),
        ("m --seed -1", "m --seed -1"),
        ("-e simulated m", "-e simulated m"),
    ],
)
def test_options_have_our_names_afterwards(given: str, meant: str) -> None:
    assert in_our_words(given.split()) == (meant.split(), [])


def test_options_that_are_not_needed_are_left_out_and_told() -> None:
    arguments, notes = in_our_words(
        ["--disable-uvicorn-access-log", "m", "--uvicorn-log-level", "warning", "--seed", "1"]
    )
    assert arguments == ["m", "--seed", "1"]
    assert [note.partition(" ")[0] for note in notes] == ["--disable-uvicorn-access-log", "--uvicorn-log-level"]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_options_without_a_counterpart_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--{name}: not available here"):
        in_our_words(["m", f"--{name}", "x"])


def test_a_model_has_one_name() -> None:
    with pytest.raises(ConfigError, match="one name"):
        in_our_words(["m", "--served-model-name", "a", "b"])


def test_a_config_file_stands_behind_what_the_command_line_says(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(
        "model: m\nport: 9\nmax_model_len: 4k\nenable-lora: true\nenforce-eager: false\nlora-modules: [a=x, b=y]"
    )
    arguments, _ = in_our_words(["--config", str(file), "--port", "8"])
    assert arguments == [
        *("m", "--port", "8", "--max-model-len", "4k", "--enable-lora", "--no-enforce-eager"),
        *("--lora-modules", "a=x", "b=y"),
    ]


@pytest.mark.parametrize(("text", "said"), [("[1]", "must be a mapping"), ("{", "is no YAML"), (None, "cannot read")])
def test_a_wrong_config_file_is_named(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "serve.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        in_our_words(["m", "--config", str(file)])


def test_what_is_refused_is_not_also_left_out() -> None:
    assert not set(REFUSED) & set(NEEDLESS)


def adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    return folder


def test_modules_become_a_folder_of_adapters_by_name(tmp_path: Path) -> None:
    modules = [f"sql={adapter(tmp_path / 'x')}", {"name": "law", "path": str(adapter(tmp_path / "y/z"))}]
    place = adapters_folder(modules, tmp_path / "cache")
    assert sorted(path.parent.name for path in place.glob("*/adapter_config.json")) == ["law", "sql"]
    assert adapters_folder(modules[::-1], tmp_path / "cache") == place
    assert adapters_folder(modules[0], tmp_path / "cache") != place


@pytest.mark.parametrize("module", ["sql", "=x", "a/b=x", "..=x", {"name": "sql"}, ["sql=x", "sql=x"]])
def test_a_wrong_module_is_refused(tmp_path: Path, module: object) -> None:
    adapter(tmp_path / "x")
    with pytest.raises(ConfigError, match="--lora-modules"):
        adapters_folder(module, tmp_path / "cache")
