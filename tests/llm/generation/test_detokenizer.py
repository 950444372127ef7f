from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.llm.generation.detokenizer import WindowDetokenizer

_any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=80)
_cuts = st.lists(st.integers(0, 200), max_size=60)


class ByteTokens:
    """Tokens of one byte or more, as byte-level tokenizers have them; a token may begin or end within a character."""

    def __init__(self, text: str, cuts: list[int]) -> None:
        raw = text.encode()
        places = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})
        self._tokens = [raw[start:stop] for start, stop in itertools.pairwise(places)]
        self.ids = list(range(len(self._tokens)))

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self._tokens[token_id] for token_id in ids).decode("utf-8", "replace")


class SentencePieceTokens:
    """Words that begin with a mark for a space, which is dropped at the start, and bytes where there is no word.

    Bytes in a row that are no text become a replacement character each, as in the tokenizers library.
    """

    def __init__(self, text: str, bytewise: list[bool]) -> None:
        self._tokens: list[str | int] = []
        bytewise = bytewise or [False]
        for place, character in enumerate(" " + text):
            if bytewise[place % len(bytewise)] and character != " ":
                self._tokens += list(character.encode())
            else:
                self._tokens.append(character)
        self.ids = list(range(len(self._tokens)))

    def decode(self, ids: Sequence[int]) -> str:
        text, run = "", b""
        for token in [*(self._tokens[token_id] for token_id in ids), ""]:
            if isinstance(token, int):
                run += bytes([token])
                continue
            try:
                text += run.decode()
            except UnicodeDecodeError:
                text += "\ufffd" * len(run)
            text, run = text + token, b""
        return text.removeprefix(" ")


@given(_any_text, _cuts)
def test_bytes_cut_anywhere_give_the_text_again(text: str, cuts: list[int]) -> None:
    tokens = ByteTokens(text, cuts)
    detokenizer = WindowDetokenizer(tokens.decode)

    parts = detokenizer.push(tokens.ids)

    assert "".join(parts) + detokenizer.flush() == text
    assert not any("\ufffd" in part for part in parts), "a character is passed on when it is whole"


@given(_any_text.filter(lambda text: not text.startswith(" ")), st.lists(st.booleans(), max_size=9))
def test_words_and_bytes_of_sentencepiece_give_the_text_again(text: str, bytewise: list[bool]) -> None:
    tokens = SentencePieceTokens(text, bytewise)
    detokenizer = WindowDetokenizer(tokens.decode)

    parts = [part for token_id in tokens.ids for part in detokenizer.push([token_id])]

    assert "".join(parts) + detokenizer.flush() == text
    assert not any("\ufffd" in part for part in parts)


@given(_any_text, _cuts, st.integers(0, 60))
def test_the_prompt_is_context_and_no_output(text: str, cuts: list[int], prompt_tokens: int) -> None:
    tokens = ByteTokens(text, cuts)
    prompt, answer = tokens.ids[:prompt_tokens], tokens.ids[prompt_tokens:]
    detokenizer = WindowDetokenizer(tokens.decode, prompt)

    written = "".join(detokenizer.push(answer)) + detokenizer.flush()

    # A character that the prompt began and the answer ended belongs to the answer.
    whole_in_prompt = tokens.decode(prompt).rstrip("\ufffd")
    assert text == whole_in_prompt + written


def test_a_space_that_a_tokenizer_drops_at_the_start_is_kept_after_a_prompt() -> None:
    tokens = SentencePieceTokens("one two", [])
    detokenizer = WindowDetokenizer(tokens.decode, tokens.ids[:4])

    assert "".join(detokenizer.push(tokens.ids[4:])) == " two"


def test_bytes_that_are_no_text_do_not_hold_back_what_follows() -> None:
    tokens = ByteTokens("", [])
    tokens._tokens = [b"a", b"\xff", b"\xfe", b"b", b"\xe2\x82"]
    detokenizer = WindowDetokenizer(tokens.decode)

    assert detokenizer.push(range(5)) == ["a", "", "", "\ufffd\ufffdb", ""]
    assert detokenizer.flush() == "\ufffd"


def test_a_long_text_is_decoded_in_a_window() -> None:
    tokens = ByteTokens("wörter " * 300, list(range(0, 3000, 3)))
    decoded: list[int] = []

    def decode(ids: Sequence[int]) -> str:
        decoded.append(len(ids))
        return tokens.decode(ids)

    detokenizer = WindowDetokenizer(decode)
    assert "".join(detokenizer.push(tokens.ids)) == "wörter " * 300
    assert max(decoded) < 40


@pytest.mark.parametrize("text", ["Grüße, 世界! 👩‍👩‍👧 ok", "naïve café\n\tיום"])
def test_a_real_byte_level_tokenizer_gives_the_text_again(text: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    detokenizer = WindowDetokenizer(tokenizer.decode)

    parts = detokenizer.push(tokenizer.encode(text).ids)

    assert "".join(parts) == text
    assert not any("\ufffd" in part for part in parts)
