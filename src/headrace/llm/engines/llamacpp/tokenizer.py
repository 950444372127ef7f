"""The tokenizer of a GGUF file as the generation layer needs it."""

from __future__ import annotations

import ctypes
import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
import llama_cpp

from headrace.llm.generation.detokenizer import BytesDetokenizer
from headrace.llm.generation.token_engine import ChatTemplateError


class LlamaCppTokenizer:
    """
    Attributes:
        vocabulary_size: ids are smaller than this.
        chat_template: the model's, or what is used in its place; None: there is none.
    """

    def __init__(self, vocabulary: Any, chat_template: str | None) -> None:
        """
        Args:
            vocabulary: llama.cpp's, of a loaded model.
        """
        self._vocabulary = vocabulary
        self.vocabulary_size: int = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self.chat_template = chat_template
        self._pieces: dict[tuple[int, bool], bytes] = {}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """See `Tokenizer.encode`."""
        raw = text.encode()
        room = len(raw) + 8
        buffer = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocabulary, raw, len(raw), buffer, room, add_special_tokens, True)
        if count < 0:
            buffer = (llama_cpp.llama_token * -count)()
            count = llama_cpp.llama_tokenize(self._vocabulary, raw, len(raw), buffer, -count, add_special_tokens, True)
        return list(buffer[:count])

    def _piece(self, token_id: int, special: bool) -> bytes:
        found = self._pieces.get((token_id, special))
        if found is None:
            buffer = ctypes.create_string_buffer(256)
            count = llama_cpp.llama_token_to_piece(self._vocabulary, token_id, buffer, 256, 0, special)
            if count < 0:
                buffer = ctypes.create_string_buffer(-count)
                count = llama_cpp.llama_token_to_piece(self._vocabulary, token_id, buffer, -count, 0, special)
            found = self._pieces[token_id, special] = buffer.raw[:count]
        return found

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """See `Tokenizer.decode`."""
        raw = b"".join(self._piece(token_id, not skip_special_tokens) for token_id in token_ids)
        return raw.decode("utf-8", "replace")

    def token(self, token_id: int) -> tuple[str, bytes]:
        """See `Tokenizer.token`."""
        raw = self._piece(token_id, True)
        return raw.decode("utf-8", "replace"), raw

    def detokenizer(self, prompt: Sequence[int], *, skip_special_tokens: bool = True) -> BytesDetokenizer:
        """See `Tokenizer.detokenizer`."""
        return BytesDetokenizer(lambda token_id: self._piece(token_id, not skip_special_tokens))

    def render_chat(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """See `Tokenizer.render_chat`."""
        template = self.chat_template
        if not template:
            raise ChatTemplateError("this model has no chat template; the engine's argument `chat_template` sets one")
        variables = {
            "bos_token": self._name(llama_cpp.llama_vocab_bos(self._vocabulary)),
            "eos_token": self._name(llama_cpp.llama_vocab_eos(self._vocabulary)),
            **(template_arguments or {}),
        }
        try:
            text = (
                _environment()
                .from_string(template)
                .render(messages=messages, tools=tools, add_generation_prompt=add_generation_prompt, **variables)
            )
        except Exception as error:
            # Templates are programs: what they raise about messages is of every kind, and is the client's to know.
            raise ChatTemplateError(f"the model's chat template refuses these messages: {error}") from error
        if continue_final_message:
            last = str(messages[-1]["content"]).strip()
            text = text[: text.rindex(last) + len(last)] if last in text else text
        return text

    def _name(self, token_id: int) -> str:
        return self._piece(token_id, True).decode("utf-8", "replace") if token_id >= 0 else ""


def template_of(given: str | None, model: Any) -> str | None:
    """A chat template: given (as text or as the path of a file), or the model's own."""
    if given is None:
        own = llama_cpp.llama_model_chat_template(model, None)
        return None if own is None else str(own.decode())
    if "{" not in given and "\n" not in given and Path(given).is_file():
        return Path(given).read_text(encoding="utf-8")
    return given


def _environment() -> jinja2.Environment:
    """As templates of the Hugging Face hub expect it: they are programs of strangers, and run in a sandbox."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment
