"""The page at the REST port: static files, which the controller serves, and which ask the REST API for all they show.

ES modules as browsers take them and one style sheet: nothing is built, and nothing comes from elsewhere. What is shown
is always put into the page as text (`static/dom.js`), since names, messages and answers are those of users' code.
"""

from __future__ import annotations

from pathlib import Path

STATIC = Path(__file__).parent / "static"
"""The folder of the files; `index.html` names the others below `ASSETS`."""

ASSETS = "@ASSETS@"
"""Stands in `index.html` for where the other files are served."""
