"""Takes the pictures of docs/dashboard.md: `python -m tests.dashboard.take_pictures`, from the repository's root."""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

import headrace as serve
from headrace import client as driver

from .browser import aside, chromium, page_of
from .sample_apps import Release, chat, triage

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "images"
MEASURED_FOR_S = 75.0
SIZE = {"width": 1180, "height": 760}
TEXT = "I was billed twice for the parcel of last week"


@contextmanager
def load(http_url: str) -> Iterator[None]:
    """Clients of the pipeline: some all the time, and more for a while, so that it scales."""
    done = threading.Event()
    began = time.monotonic()

    def ask(number: int) -> None:
        with httpx.Client(base_url=http_url, timeout=30) as client:
            count = 0
            while not done.wait(0.05):
                if number > 1 and time.monotonic() - began < 30:
                    continue
                count += 1
                client.post("/tickets", json={"text": "unreadable" if number == 0 and count % 25 == 0 else TEXT})

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(7)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


def picture(page: Any, name: str, view: str) -> None:
    page.screenshot(path=FOLDER / f"dashboard-{name}.png")
    print(f"dashboard-{name}.png: {view}")


def go(page: Any, view: str) -> None:
    page.goto(f"/{view}")
    page.get_by_text("Live", exact=True).wait_for()
    page.wait_for_timeout(2500)


def take(browser: Any, instance: driver.Client) -> None:
    with page_of(browser, instance.rest_url, viewport=SIZE, color_scheme="light") as page:
        for name, view in (
            ("overview", "#/"),
            ("pipeline", "#/app/tickets"),
            ("deployment", "#/app/tickets/deployment/Classifier"),
            ("scaling", "#/app/tickets/scaling"),
            ("deploys", "#/app/search/history"),
        ):
            go(page, view)
            picture(page, name, view)
        go(page, "#/app/tickets/requests")
        page.locator("details.request summary").nth(1).click()
        picture(page, "requests", "the second of the slowest requests")
        go(page, "#/app/tickets/playground")
        page.get_by_label("text required").fill(TEXT)
        page.get_by_role("button", name="Send").click()
        page.get_by_text(re.compile("^Status 200")).wait_for()
        picture(page, "form", "the form of a typed handler")
    with page_of(browser, instance.rest_url, viewport=SIZE, color_scheme="dark") as page:
        go(page, "#/app/chat/playground")
        page.get_by_label("Tokens at most").fill("40")
        page.get_by_label("Message").fill("What is a headrace?")
        page.keyboard.press("Enter")
        page.get_by_text(re.compile("^First token after")).wait_for()
        picture(page, "chat", "the chat, dark")
        go(page, "#/app/tickets")
        picture(page, "dark", "the pipeline, dark")
    with page_of(browser, instance.rest_url, viewport={"width": 360, "height": 740}, color_scheme="dark") as page:
        go(page, "#/app/tickets")
        picture(page, "phone", "the pipeline on a phone")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="hr-") as sessions:
        os.environ["HEADRACE_SESSIONS"] = sessions
        with chromium() as browser:
            aside(serve.start, http_options={"port": 0, "num_proxies": 1}, rest_options={"port": 0})
            try:
                aside(serve.run, triage(), name="tickets", route_prefix="/tickets")
                aside(serve.run, chat(), name="chat", route_prefix="/chat")
                for size in (1, 2):
                    aside(
                        serve.run,
                        Release.options(name="Search", num_replicas=size, user_config={"results": 10 * size}).bind(),
                        name="search",
                        route_prefix="/search",
                    )
                instance = aside(driver.find)
                with load(instance.http_url or ""):
                    begun = time.monotonic()
                    while time.monotonic() - begun < MEASURED_FOR_S:
                        # Points are made often while somebody looks.
                        httpx.get(f"{instance.rest_url}/api/headrace/series")
                        time.sleep(5)
                    take(browser, instance)
            finally:
                aside(serve.shutdown)


if __name__ == "__main__":
    main()
