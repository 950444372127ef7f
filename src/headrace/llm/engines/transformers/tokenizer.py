"""A tokenizer of transformers as the generation layer needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.llm.generation.detokenizer import WindowDetokenizer
from headrace.llm.generation.token_engine import ChatTemplateError


class HuggingFaceTokenizer:
    """
    Attributes:
        inner: transformers' own.
        vocabulary_size: ids are smaller than this.
    """

    def __init__(self, inner: Any, vocabulary_size: int, chat_template: str | None = None) -> None:
        """
        Args:
            vocabulary_size: of the model, which may have more ids than the tokenizer has tokens.
            chat_template: in place of the tokenizer's own: a template, or the path of a file with one.
        """
        self.inner = inner
        self.vocabulary_size = vocabulary_size
        if chat_template is not None:
            self.inner.chat_template = _template(chat_template)
        self._tokens: dict[int, tuple[str, bytes]] = {}
        # The fast one below, which several threads may use at once; transformers' own sets truncation on it each time.
        self._backend = getattr(inner, "backend_tokenizer", None) if getattr(inner, "is_fast", False) else None
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """See `Tokenizer.encode`."""
        ids: list[int]
        if self._backend is not None:
            ids = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        else:
            ids = self.inner.encode(text, add_special_tokens=add_special_tokens)
        return ids

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """See `Tokenizer.decode`."""
        text: str = self.inner.decode(
            list(token_ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return text

    def token(self, token_id: int) -> tuple[str, bytes]:
        """See `Tokenizer.token`."""
        found = self._tokens.get(token_id)
        if found is None:
            found = self._tokens[token_id] = self._token(token_id)
        return found

    def _token(self, token_id: int) -> tuple[str, bytes]:
        name = self.inner.convert_ids_to_tokens(token_id)
        text = self.decode([token_id], skip_special_tokens=False)
        if name is None:
            return text, text.encode()
        if name.startswith("\u2581") and not text.startswith(" "):
            # Sentencepiece's mark of a space, which is dropped where a text begins.
            text = " " + text
        if "\ufffd" not in text:
            return text, text.encode()
        if len(name) == 6 and name.startswith("<0x"):
            return text, bytes([int(name[3:5], 16)])
        raw = [_BYTE_OF.get(character) for character in name]
        return text, text.encode() if None in raw else bytes(byte for byte in raw if byte is not None)

    def detokenizer(self, prompt: Sequence[int], *, skip_special_tokens: bool = True) -> WindowDetokenizer:
        """See `Tokenizer.detokenizer`."""
        return WindowDetokenizer(lambda ids: self.decode(ids, skip_special_tokens=skip_special_tokens), prompt)

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
        if not self.inner.chat_template:
            raise ChatTemplateError("this model has no chat template; the engine's argument `chat_template` sets one")
        try:
            text: str = self.inner.apply_chat_template(
                messages,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tokenize=False,
                **dict(template_arguments or {}),
            )
        except Exception as error:
            # Templates are programs: what they raise about messages is of every kind, and is the client's to know.
            raise ChatTemplateError(f"the model's chat template refuses these messages: {error}") from error
        return text


def _template(given: str) -> str:
    if "{" not in given and "\n" not in given and Path(given).is_file():
        return Path(given).read_text(encoding="utf-8")
    return given


def _byte_of() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes, which byte-level tokenizers name their tokens with."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    stand_ins = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    stand_ins.update({chr(256 + place): byte for place, byte in enumerate(others)})
    return stand_ins


_BYTE_OF = _byte_of()
