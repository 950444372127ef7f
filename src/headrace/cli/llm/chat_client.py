"""A conversation with a server that speaks the OpenAI API."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from headrace.exceptions import ConfigError, HeadraceError, NotRunningError
from headrace.llm.batch.http_sender import import_httpx

if TYPE_CHECKING:
    import httpx


@dataclass
class AnswerFigures:
    """How quick an answer was.

    Attributes:
        first_token_s: from sending to the first piece of text; None if there was none.
        whole_s: from sending to the end.
        tokens: as the server counted them; None if it did not say.
    """

    first_token_s: float | None = None
    whole_s: float = 0.0
    tokens: int | None = None

    def __str__(self) -> str:
        parts = []
        if self.first_token_s is not None:
            parts.append(f"first token after {1000 * self.first_token_s:.0f} ms")
            if self.tokens is not None and self.tokens > 1 and self.whole_s > self.first_token_s:
                parts.append(f"{(self.tokens - 1) / (self.whole_s - self.first_token_s):.1f} tokens/s")
        if self.tokens is not None:
            parts.append(f"{self.tokens:,} tokens")
        return ", ".join(parts) or "no text"


class ServerError(HeadraceError):
    """The server has refused a request, or broke off its answer."""


@dataclass
class ChatClient:
    """A context manager that keeps the conversation and asks for its next turn.

    Args:
        url: of the server, with any route prefix.
        api_key: sent as a bearer token; None for none.
        model: its id; None for the first that the server has.
        system: the system message; None for none.
        parameters: more fields of the requests' bodies, such as `temperature`.
    """

    url: str
    api_key: str | None = None
    model: str | None = None
    system: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=list)
    figures: AnswerFigures = field(default_factory=AnswerFigures)

    def __enter__(self) -> Self:
        library = import_httpx()
        headers = {} if self.api_key is None else {"authorization": f"Bearer {self.api_key}"}
        base = self.url.rstrip("/").removesuffix("/v1")
        if not base.startswith(("http://", "https://")):
            raise ConfigError(f"--url: '{self.url}' is no address of a server; it looks like http://localhost:8000")
        timeout = library.Timeout(None, connect=10.0)
        self._client: httpx.Client = library.Client(base_url=base, headers=headers, timeout=timeout)
        self.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def clear(self) -> None:
        """Begin a new conversation."""
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]

    def models(self) -> list[str]:
        """The ids of the models that the server has.

        Raises:
            NotRunningError: nobody answers there.
            ServerError: it refuses to tell.
        """
        library = import_httpx()
        try:
            answer = self._client.get("/v1/models")
        except library.TransportError as error:
            raise NotRunningError(f"no server answers at {self._client.base_url}: {error}") from None
        if answer.status_code != 200:
            raise ServerError(_message(answer.status_code, answer.content))
        return [str(model["id"]) for model in answer.json()["data"]]

    def ask(self, text: str) -> Generator[str, None, None]:
        """The answer, as it comes. Closing the generator ends the generation at the server; what came stays in the
        conversation.

        Raises:
            ServerError: the server refuses, or breaks off.
        """
        library = import_httpx()
        asked = {"role": "user", "content": text}
        body = {
            "model": self.model,
            "messages": [*self.messages, asked],
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.parameters,
        }
        self.figures = AnswerFigures()
        said: list[str] = []
        began = time.perf_counter()
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    raise ServerError(_message(answer.status_code, answer.read()))
                for line in answer.iter_lines():
                    piece = self._read(line)
                    if piece:
                        if self.figures.first_token_s is None:
                            self.figures.first_token_s = time.perf_counter() - began
                        said.append(piece)
                        yield piece
        except library.TransportError as error:
            raise ServerError(f"the connection to {self._client.base_url} is lost: {error}") from None
        finally:
            self.figures.whole_s = time.perf_counter() - began
            if said:
                self.messages += [asked, {"role": "assistant", "content": "".join(said)}]

    def _read(self, line: str) -> str:
        """The text in one line of the event stream."""
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            return ""
        event = json.loads(data)
        if "error" in event:
            raise ServerError(_message(0, data.encode()))
        if event.get("usage"):
            self.figures.tokens = event["usage"].get("completion_tokens")
        return "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))


def _message(status: int, body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        text = body.decode(errors="replace").strip()
    return f"the server answered {status}: {text}" if status else text
