"""Debian's Chromium, without a window, and pages in it that note whatever is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

CHROMIUM = shutil.which("chromium")
TIMEOUT_MS = 60_000

T = TypeVar("T")


def aside(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call in another thread: in Playwright's own an event loop seems to run all the time."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(function, *args, **kwargs).result()


class Problems(list[str]):
    """What a page has to complain of: errors, what its policy forbids, and requests that leave the machine."""

    def __init__(self, page: Any, origin: str) -> None:
        super().__init__()
        self.expected: tuple[str, ...] = ()
        self._host = urlsplit(origin).netloc
        page.on("console", lambda message: message.type in ("error", "warning") and self._note(message.text))
        page.on("pageerror", lambda error: self._note(f"uncaught: {error}"))
        page.on("request", lambda request: self._requested(request.url))

    def _note(self, text: str) -> None:
        if not any(part in text for part in self.expected):
            self.append(text)

    def _requested(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.netloc != self._host:
            self._note(f"asked {url}")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser. Skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page_of(browser: Any, origin: str, **options: Any) -> Iterator[Any]:
    """A page with nothing in it yet, and `problems`, which must be none at the end."""
    context = browser.new_context(base_url=origin, **{"viewport": {"width": 1280, "height": 900}, **options})
    try:
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.problems = Problems(page, origin)
        yield page
        assert not page.problems
    finally:
        context.close()


def serious_findings(page: Any) -> list[str]:
    """What axe finds that keeps people from using the page."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{finding['id']} ({finding['impact']}): {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
        for finding in found
        if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"]
    ]


def overflow(page: Any) -> int:
    """By how many pixels the page is wider than the screen."""
    width: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return width
