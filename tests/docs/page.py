"""The code blocks of a Markdown page, and what the text around them says about how to check them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

NOT_RUN = "not run:"
LANGUAGES = ("python", "bash", "yaml", "text", "json", "mermaid")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    `title` is the file that it shows, if any. `line` counts from 1. `note` is the HTML comment right before the block.
    `output` is the text block right after it: what it prints, with `...` for what varies.
    """

    language: str
    title: str | None
    source: str
    line: int
    note: str | None = None
    output: str | None = None

    @property
    def is_run(self) -> bool:
        return not (self.note or "").startswith(NOT_RUN)


def read_blocks(path: Path) -> list[Block]:
    """The blocks of a page in order, each output block attached to the block that it follows.

    Raises:
        ValueError: a fence is hidden from the parser (indented), or is in a language that nothing here checks.
    """
    text = path.read_text()
    blocks: list[Block] = []
    note: str | None = None
    just_before: int | None = None
    for token in MarkdownIt("commonmark").parse(text):
        if token.nesting < 0 or token.map is None:
            continue
        if token.type == "html_block" and (comment := re.fullmatch(r"<!--(.*?)-->\s*", token.content, re.DOTALL)):
            note = comment[1].strip()
            continue
        if token.type == "fence":
            language, _, attributes = token.info.partition(" ")
            if language not in LANGUAGES:
                raise ValueError(
                    f"{path}:{token.map[0] + 1}: a block in '{language}'; known are {', '.join(LANGUAGES)}"
                )
            title = re.search(r'title="([^"]+)"', attributes)
            block = Block(language, title[1] if title else None, token.content, token.map[0] + 1, note)
            if language == "text" and just_before is not None and block.is_run:
                before = blocks[just_before]
                blocks[just_before] = Block(*[getattr(before, name) for name in Block.__match_args__[:5]], block.source)
            else:
                blocks.append(block)
            just_before = len(blocks) - 1 if language in ("bash", "python") else None
        else:
            just_before = None
        note = None
    fences = len(re.findall(r"^\s*```", text, re.MULTILINE))
    if fences != 2 * sum(token.type == "fence" for token in MarkdownIt("commonmark").parse(text)):
        raise ValueError(f"{path}: some fence is indented, so that its block would go unchecked")
    return blocks
