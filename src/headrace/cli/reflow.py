"""Help texts: written as docstrings, shown in as many columns as the terminal has."""

from __future__ import annotations

import inspect

_KEPT_AS_THEY_ARE = ("[cyan]$", "[green]")


def reflow(text: str) -> str:
    """Joins the lines of each paragraph, for the terminal to break. Examples keep their lines."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(
        paragraph if paragraph.startswith(_KEPT_AS_THEY_ARE) else " ".join(paragraph.split())
        for paragraph in paragraphs
    )
